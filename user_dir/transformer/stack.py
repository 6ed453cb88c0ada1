"""What encoder and decoder share."""

from fairseq.models.transformer import TransformerConfig
from torch import Tensor, nn

from user_dir.fast_moe.build import MoeParts
from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.tokens.keys import TokenKeys
from user_dir.fast_moe.tokens.noise import NoiseKey
from user_dir.fast_moe.tokens.ranked import PlacedTokens, rank_tokens
from user_dir.transformer.layer_order import DenseLayer, order_layers
from user_dir.transformer.mixture_tail import MixtureTail
from user_dir.transformer.sublayers import SublayerConfig


class MoeStack:
    """Knows which layers of an encoder or decoder are mixtures, and ranks their tokens."""

    cfg: TransformerConfig
    moe_parts: MoeParts | None
    tail: MixtureTail | None
    embed_tokens: nn.Embedding
    num_directions = 0  # that statistics tell apart

    def _plan_layers(self, cfg: TransformerConfig, stack: str) -> None:
        """Call before fairseq's constructor, which builds layers without saying which."""
        self.moe_parts = getattr(cfg, "moe_parts", None)
        self._stack = stack
        self._next_index = 0
        if self.moe_parts is not None:
            num_layers = cfg.encoder.layers if stack == "encoder" else cfg.decoder.layers
            self._order = order_layers(self.moe_parts.config, stack=stack, num_layers=num_layers)

    def _next_kind(self) -> DenseLayer | LayerKind:
        if self.moe_parts is None:
            return DenseLayer.FULL
        self._next_index += 1
        return self._order.layers[self._next_index - 1]

    def _build_tail(self, cfg: TransformerConfig) -> None:
        """Call after fairseq's constructor: the mixtures of a reordered stack."""
        self.tail = None
        if self.moe_parts is not None and self._order.tail:
            num_keys = self.embed_tokens.num_embeddings
            of_sublayers = SublayerConfig.of(cfg, self._stack, num_keys=num_keys)
            self.tail = MixtureTail(self.moe_parts, of_sublayers, self._order.tail, cfg)

    @property
    def _layer_name(self) -> str:
        return f"{self._stack}.{self._next_index - 1}"

    def _rank_tokens(
        self,
        is_pad_BS: Tensor,
        rank_B: Tensor,
        noise: NoiseKey | None,
        *,
        ids_BS: Tensor,
        padding_idx: int,
        is_reported: bool = True,
        direction_B: Tensor | None = None,
    ) -> PlacedTokens:
        """Rank the real tokens of a pass.

        Args:
            ids_BS: whole sentences; in cached decoding more positions than are computed.
            direction_B: of each sentence, below `num_directions`.
        """
        assert self.moe_parts is not None
        keys = None
        if self.moe_parts.config.token_cluster:
            keys = TokenKeys.of(ids_BS, pad=padding_idx).last_of(is_pad_BS.shape[1])
        return rank_tokens(
            is_pad_BS,
            rank_B,
            num_hosted=self.moe_parts.topology.num_hosted,
            noise=noise,
            shares=self.moe_parts.seq_shares,
            is_reported=is_reported,
            keys=keys,
            direction_B=direction_B,
            num_directions=self.num_directions,
        )
