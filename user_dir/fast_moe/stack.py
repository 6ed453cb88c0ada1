"""What encoder and decoder share. Level 5."""

from fairseq.models.transformer import TransformerConfig
from torch import Tensor

from user_dir.fast_moe.clustered_stack import ClusteredMoeStack
from user_dir.fast_moe.layer_builder import MoeParts, StackConfig
from user_dir.fast_moe.layer_plan import FULL, plan_stack
from user_dir.fast_moe.noise import NoiseKey
from user_dir.fast_moe.tokens import rank_tokens


class MoeStack:
    """Knows which layers of a stack are mixtures, and ranks their tokens."""

    cfg: TransformerConfig
    moe_parts: MoeParts | None
    tail: ClusteredMoeStack | None

    def _plan_layers(self, cfg: TransformerConfig, stack: str) -> None:
        """Call before fairseq's constructor, which builds layers without saying which."""
        self.moe_parts = getattr(cfg, "moe_parts", None)
        self._stack = stack
        self._next_index = 0
        if self.moe_parts is not None:
            num_layers = cfg.encoder.layers if stack == "encoder" else cfg.decoder.layers
            self._plan = plan_stack(self.moe_parts.config, stack=stack, num_layers=num_layers)

    def _next_kind(self) -> str:
        if self.moe_parts is None:
            return FULL
        self._next_index += 1
        return self._plan.layers[self._next_index - 1]

    def _build_tail(self, cfg: TransformerConfig) -> None:
        """Call after fairseq's constructor: the mixtures of a reordered stack."""
        self.tail = None
        if self.moe_parts is not None and self._plan.tail:
            stack = StackConfig.of(cfg, self._stack)
            self.tail = ClusteredMoeStack(self.moe_parts, stack, self._plan.tail, cfg)

    @property
    def _layer_name(self) -> str:
        return f"{self._stack}.{self._next_index - 1}"

    def _rank_tokens(
        self,
        is_pad_BS: Tensor,
        rank_B: Tensor,
        noise: NoiseKey | None,
        *,
        is_reported: bool = True,
    ):
        assert self.moe_parts is not None
        return rank_tokens(
            is_pad_BS,
            rank_B,
            num_hosted=self.moe_parts.topology.num_hosted,
            noise=noise,
            shares=self.moe_parts.seq_shares,
            is_reported=is_reported,
        )
