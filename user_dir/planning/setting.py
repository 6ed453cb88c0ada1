"""What is planned: a model, its layout, its batch; refused as training would refuse it."""

from argparse import Namespace
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from user_dir.errors import UserError
from user_dir.fast_moe.config import LayerKind, MoeConfig
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.reach import Shares
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.routing.capacity import CapacityRule
from user_dir.transformer.checks import check_scomoe_layout, check_stacks
from user_dir.transformer.layer_order import LayerOrder, order_layers
from user_dir.transformer.new_run import check_new_run, choose_clusters
from user_dir.transformer.options import check_training_options
from user_dir.transformer.sizes import SIZES

# Where neither the command line nor the architecture says it: fairseq's base transformer.
_BASE: dict[str, Any] = {
    "encoder_embed_dim": 512,
    "encoder_ffn_embed_dim": 2048,
    "encoder_layers": 6,
    "encoder_attention_heads": 8,
    "decoder_layers": 6,
    "decoder_attention_heads": 8,
    "encoder_normalize_before": False,
    "decoder_normalize_before": False,
    "share_all_embeddings": False,
    "share_decoder_input_output_embed": False,
}
_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class Stack:
    """An encoder or a decoder."""

    name: str
    dim: int
    hidden_dim: int
    num_heads: int
    pre_norm: bool
    order: LayerOrder


@dataclass(frozen=True)
class Setting:
    """A model and how it is trained.

    Attributes:
        tokens: of a rank in each stack and update; none of them is padding.
        sentence_length: of source and target.
    """

    config: MoeConfig
    layout: Layout
    encoder: Stack
    decoder: Stack
    source_vocabulary: int
    target_vocabulary: int
    share_all: bool
    share_decoder: bool
    tokens: int
    sentence_length: int
    precision: str
    optimizer: str
    recompute: bool
    dropout: float
    device: str

    @staticmethod
    def of(args: Namespace, *, device: str) -> "Setting":
        """Read the options of a plan, named as those of training.

        Raises:
            UserError: training would refuse them, or they make no mixture.
        """
        args = with_defaults(args)
        args.task = "scomoe_translation"  # as both of our tasks do
        choose_clusters(args)
        config = MoeConfig.from_args(args)
        layout = Layout(args.moe_nodes, args.moe_ranks_per_node)
        _check(args, config, layout, device=device)
        encoder, decoder = (_stack(args, config, name) for name in ("encoder", "decoder"))
        return Setting(
            config=config,
            layout=layout,
            encoder=encoder,
            decoder=decoder,
            source_vocabulary=args.vocabulary,
            target_vocabulary=args.target_vocabulary or args.vocabulary,
            share_all=args.share_all_embeddings,
            share_decoder=args.share_decoder_input_output_embed or args.share_all_embeddings,
            tokens=args.tokens,
            sentence_length=args.sentence_length,
            precision=args.precision,
            optimizer=args.optimizer,
            recompute=args.checkpoint_activations,
            dropout=args.dropout,
            device=device,
        )

    @property
    def stacks(self) -> tuple[Stack, Stack]:
        return self.encoder, self.decoder

    @property
    def itemsize(self) -> int:
        """Bytes of a weight, and of a number that travels."""
        return _BYTES[self.precision]

    @property
    def num_ranks(self) -> int:
        return self.layout.num_ranks

    @cached_property
    def topology(self) -> Topology:
        """Who holds which experts; of one process, for none runs."""
        return _topology(self.config, self.layout)

    @property
    def experts_per_rank(self) -> int:
        return self.topology.experts_per_rank

    @property
    def replicas(self) -> int:
        """Ranks that hold a copy of one expert."""
        return max(1, self.num_ranks // self.config.num_experts)

    @property
    def top_k(self) -> int:
        return self.config.capacity.top_k

    @property
    def seq_shares(self) -> Shares:
        """α and β of SCoMoE-Seq; on one node what leaves the rank goes everywhere."""
        shares = self.config.shares
        return shares.on_one_node() if self.layout.num_nodes == 1 else shares

    @property
    def share_everywhere(self) -> float:
        """What part of tokens, features or nodes is open to a token: 1 for GShard."""
        config = self.config
        share = 1.0
        if config.divides:
            share = float(config.shares.everywhere)
        elif config.exchange_dim is not None:
            share = config.exchange_dim / self.encoder.dim
        limit = config.gate.limit_nodes
        return share if limit is None else share * min(1.0, limit / self.layout.num_nodes)

    @property
    def exchange_dim(self) -> int:
        """Features that travel to a bottleneck's experts."""
        assert self.config.exchange_dim is not None
        return self.config.exchange_dim

    def capacity_of(self, stack: Stack) -> CapacityRule:
        """Slots of an expert; experts may choose tokens in the encoder."""
        by_expert = self.config.gate.expert_choice and stack.name == "encoder"
        return replace(self.config.capacity, by_expert=by_expert)

    def shared_hidden_dim(self, stack: Stack) -> int:
        """Hidden width of the network that every token passes beside its experts; 0: none."""
        shared = self.config.shared
        if shared.ffn_dim is None and not shared.conditional:
            return 0
        return shared.ffn_dim or stack.hidden_dim

    def expert_hidden_dim(self, stack: Stack) -> int:
        """Hidden width of an expert."""
        return self.config.expert_ffn_dim or stack.hidden_dim


def with_defaults(args: Namespace) -> Namespace:
    """The options, with what the architecture sets and fairseq's defaults where none is given."""
    given = {name: value for name, value in vars(args).items() if value is not None}
    # A flag that is left out is off, which an architecture may change.
    given = {name: v for name, v in given.items() if v is not False or name not in _BASE}
    values = {**vars(args), **_BASE, **SIZES[args.arch], **given}
    for name in "embed_dim", "ffn_embed_dim":
        if values.get(f"decoder_{name}") is None:
            values[f"decoder_{name}"] = values[f"encoder_{name}"]
    return Namespace(**values)


def _check(args: Namespace, config: MoeConfig, layout: Layout, *, device: str) -> None:
    if not config.has_moe:
        raise UserError(
            f"--arch {args.arch} has no mixture to plan; add --moe-freq 2 --moe-expert-count 8, say"
        )
    on_cpu = device == "cpu"
    training = Namespace(
        **vars(args),
        cpu=on_cpu,
        # Whether this machine has a GPU does not matter where the plan is for another one.
        fp16=args.precision == "fp16" and on_cpu,
        bf16=args.precision == "bf16",
        fp16_no_flatten_grads=True,
    )
    check_training_options(training, num_processes=layout.num_ranks)
    check_new_run(training)
    check_stacks(config, args)
    check_scomoe_layout(config, layout)
    _topology(config, layout)
    for name in "encoder", "decoder":
        dim = getattr(args, f"{name}_embed_dim")
        heads = getattr(args, f"{name}_attention_heads")
        if dim % heads:
            raise UserError(
                f"--{name}-attention-heads ({heads}) must divide --{name}-embed-dim ({dim}); "
                f"{max(h for h in range(1, heads) if dim % h == 0)} would do"
            )
    is_joined = args.target_vocabulary in (None, args.vocabulary)
    if args.share_all_embeddings and not (
        is_joined and args.encoder_embed_dim == args.decoder_embed_dim
    ):
        raise UserError(
            "--share-all-embeddings needs one dictionary and one width for both stacks; leave "
            "--target-vocabulary and --decoder-embed-dim out, or take an --arch without it"
        )


def _topology(config: MoeConfig, layout: Layout) -> Topology:
    return Topology(layout, num_experts=config.num_experts, process_index=0, num_processes=1)


def _stack(args: Namespace, config: MoeConfig, name: str) -> Stack:
    def of(option: str) -> Any:
        return getattr(args, f"{name}_{option}")

    return Stack(
        name=name,
        dim=of("embed_dim"),
        hidden_dim=of("ffn_embed_dim"),
        num_heads=of("attention_heads"),
        pre_norm=of("normalize_before"),
        order=order_layers(config, stack=name, num_layers=of("layers")),
    )


def mixtures(setting: Setting) -> list[tuple[Stack, LayerKind, str]]:
    """The mixtures of a model with the names that its metrics give them."""
    found = []
    for stack in setting.stacks:
        names = [f"{stack.name}.{i}" for i, k in enumerate(stack.order.layers) if k in LayerKind]
        names += [f"{stack.name}.moe{i}" for i in range(len(stack.order.tail))]
        found += [
            (stack, kind, name) for kind, name in zip(stack.order.mixtures, names, strict=True)
        ]
    return found
