"""The command-line options of `scomoe`, and what must not be combined with them."""

import logging
from argparse import Namespace
from dataclasses import replace

from user_dir.checkpoints.layout import saved_cluster_groups, saved_layout
from user_dir.errors import UserError
from user_dir.fast_moe.config import (
    BALANCE_SCOPES,
    CLUSTER_KEYS,
    EXCHANGE_SCHEDULES,
    EXPERT_BACKENDS,
    EXPERT_GRAD_RULES,
    GATE_TYPES,
    INFERENCE_PARTITIONS,
    INFERENCE_ROUTINGS,
    PARTITIONS,
    POLICIES,
    SCOMOE_TYPES,
    MoeConfig,
)
from user_dir.fast_moe.layout.processes import Layout, running_layout, running_processes
from user_dir.option_values import finite_number, whole_number

logger = logging.getLogger(__name__)


def add_moe_options(parser) -> None:
    """Add the options of the MoE layers; names as in fairseq's MoE branch where it has them."""
    add = parser.add_argument
    add(
        "--moe-freq",
        type=whole_number(),
        metavar="N",
        help="every N-th feed-forward of both stacks is a mixture of experts; 0: none",
    )
    add(
        "--encoder-moe-freq",
        type=whole_number(),
        metavar="N",
        help="--moe-freq for the encoder alone",
    )
    add(
        "--decoder-moe-freq",
        type=whole_number(),
        metavar="N",
        help="--moe-freq for the decoder alone",
    )
    add(
        "--moe-expert-count",
        type=whole_number(),
        metavar="E",
        help="experts of a layer, over all ranks; a multiple or a divisor of their number",
    )
    add(
        "--moe-expert-ffn-dim",
        type=whole_number(),
        metavar="H",
        help="hidden width of an expert (default: that of the stack's feed-forward layers)",
    )
    add(
        "--moe-expert-backend",
        choices=EXPERT_BACKENDS,
        help="how experts multiply: bmm, batched; grouped, one product of torch for uneven "
        "counts; fastmoe, FastMoE's kernels; the results are the same (default: auto, the "
        "fastest known)",
    )
    add(
        "--moe-gating-use-fp32",
        action="store_true",
        help="compute the gates in float32; worth it with fp16 and bf16",
    )
    add(
        "--moe-top1-expert",
        action="store_true",
        help="Switch gate: one expert a token, instead of GShard's two",
    )
    add(
        "--moe-second-expert-policy",
        choices=POLICIES,
        help="second expert in training: drawn by Gumbel noise, kept at random, or always the "
        "second best (default: sampling)",
    )
    add(
        "--moe-normalize-gate-prob-before-dropping",
        action="store_true",
        help="divide the two weights by their sum before choices are dropped, not after",
    )
    add(
        "--moe-batch-prioritized-routing",
        action="store_true",
        help="when an expert is full, keep the most probable tokens rather than the first ones",
    )
    add(
        "--capacity-factor",
        type=finite_number(),
        metavar="F",
        help="slots of an expert in training, as a multiple of an even share; 0: dropless "
        "(default: 1.0)",
    )
    add(
        "--moe-eval-capacity-token-fraction",
        type=finite_number(),
        metavar="F",
        help="slots of an expert at evaluation, as a share of the tokens; 0: dropless, -1: as in "
        "training (default: 0)",
    )
    add(
        "--moe-normalize-expert-grad",
        choices=EXPERT_GRAD_RULES,
        help="world_size: the exact gradient of the mean loss; sqrt_world_size: that times the "
        "square root of min(ranks, experts) (default: world_size)",
    )
    add(
        "--moe-exchange-schedule",
        choices=EXCHANGE_SCHEDULES,
        help="overlap: with SCoMoE, experts work on near tokens while far ones travel; serial: one "
        "exchange after the other. Same results up to rounding (default: overlap)",
    )
    add(
        "--moe-balance-scope",
        choices=BALANCE_SCOPES,
        help="tokens over which the balance loss takes its means: those of each rank, or those of "
        "all ranks, which lets a rank whose tokens are alike use few experts (default: rank)",
    )
    add(
        "--moe-nodes",
        type=whole_number(),
        metavar="N",
        help="nodes of the logical layout that the model is made for (default: what runs)",
    )
    add(
        "--moe-ranks-per-node",
        type=whole_number(),
        metavar="L",
        help="accelerators a node of the logical layout (default: what runs, divided evenly)",
    )


def add_scomoe_options(parser) -> None:
    """Add the options of structured communication; names as in the paper's release."""
    add = parser.add_argument
    add(
        "--scomoe-type",
        choices=SCOMOE_TYPES,
        help="seq: a share of the tokens stays on its rank, another one in its node; feat: a "
        "share of every token's features does; none: all go everywhere (default: none)",
    )
    add(
        "--ratio1",
        type=finite_number(),
        metavar="A",
        help="share (0 to 1) of tokens or features that stay on their rank; of no effect without "
        "--scomoe-type. Trained with --token-cluster at A = 0 and B < 1 there is a cluster for "
        "every node, otherwise one for every expert (default: seq 0.2, feat 0.25)",
    )
    add(
        "--ratio2",
        type=finite_number(),
        metavar="B",
        help="share (0 to 1) that stays in its node; A + B is at most 1, the rest goes everywhere "
        "(default: 0.5)",
    )
    add(
        "--token-cluster",
        action="store_true",
        help="send similar tokens to the same rank before the MoE layers of a stack; these then "
        "follow each other (see --reorder-layers)",
    )
    add(
        "--temperature",
        type=finite_number(),
        metavar="T",
        help="of the softmax that clustering learns through; lower: only the best tokens of a "
        "cluster teach it. With --token-cluster and --gate-type softmax (default: 0.5)",
    )
    add(
        "--gate-type",
        choices=GATE_TYPES,
        help="how clustering learns: softmax, through differentiable sorting; sigmoid, through a "
        "weight of the expert's output. With --token-cluster (default: softmax)",
    )
    add(
        "--reorder-layers",
        action="store_true",
        help="full layers, then attention only, then a dense feed-forward layer, then all MoE "
        "layers; --token-cluster implies it",
    )
    add(
        "--layernorm-after-moe-layer",
        action="store_true",
        help="normalise what the experts of a MoE layer give before the residual is added",
    )
    add(
        "--scomoe-feat-projection",
        action="store_true",
        help="with --scomoe-type feat: learned maps before the split and after the concatenation",
    )
    add(
        "--scomoe-inference-routing",
        choices=INFERENCE_ROUTINGS,
        help="clusters at evaluation: greedy, each token to its best one, so that a translation "
        "depends on its sentence alone; balanced, equally large ones over the batch "
        "(default: greedy)",
    )
    add(
        "--scomoe-partition",
        choices=PARTITIONS,
        help="tokens of SCoMoE-Seq in training: quota, the best of a rank's tokens stay near, by "
        "comparison with the others of the batch, later ones included; threshold, those whose "
        "score reaches a running quantile, each by itself (default: quota)",
    )
    add(
        "--scomoe-inference-partition",
        choices=INFERENCE_PARTITIONS,
        help="tokens of SCoMoE-Seq at evaluation: threshold, by the quantiles of training, so that "
        "a translation depends on its sentence alone (a checkpoint without any: everywhere); "
        "everywhere, all may go to any expert; quota, by comparison with the other tokens of the "
        "batch (default: threshold)",
    )
    add(
        "--cluster-by",
        choices=CLUSTER_KEYS,
        help="what clusters follow from: scores, learned ones (the paper's BalanceGate); token, a "
        "fixed table of the dictionary; language, the language token that begins a sentence; "
        "kmeans, directions of the tokens' vectors. With --token-cluster (default: scores)",
    )
    add(
        "--cluster-table",
        metavar="TABLE",
        help="which tokens share a cluster with --cluster-by token and kmeans: random; similar, "
        "those that occur in like contexts; or a file with lines of a token, a tab and its "
        "cluster (default: random)",
    )
    add(
        "--cluster-warmup",
        type=whole_number(),
        metavar="N",
        help="updates for which --cluster-by kmeans goes by the table (default: 100)",
    )


def resolve_layout(args: Namespace) -> Layout:
    """The layout that the options ask for, else that of the checkpoint to resume from, else the
    processes that run. It is kept in ``args``, and so in every checkpoint.

    One of the two options alone divides the ranks of the checkpoint, or of what runs.
    """
    given = vars(args).get
    nodes, ranks_per_node = given("moe_nodes"), given("moe_ranks_per_node")
    args.moe_layout_given = nodes is not None or ranks_per_node is not None
    if nodes is not None and ranks_per_node is not None:
        layout = Layout(num_nodes=nodes, ranks_per_node=ranks_per_node)
    else:
        saved = saved_layout(args)
        num_ranks = running_processes()[1] if saved is None else saved.num_ranks
        if nodes is not None:
            layout = Layout(num_nodes=nodes, ranks_per_node=_share(num_ranks, nodes))
        elif ranks_per_node is not None:
            layout = Layout(_share(num_ranks, ranks_per_node), ranks_per_node)
        else:
            layout = saved or running_layout()
    args.moe_nodes, args.moe_ranks_per_node = layout.num_nodes, layout.ranks_per_node
    return layout


def with_cluster_groups(
    config: MoeConfig, args: Namespace, layout: Layout, *, trained: int | None
) -> MoeConfig:
    """The configuration with its number of clusters: as trained, where the options are those of a
    checkpoint, else that of the one to resume from, else what the options say. It is kept in
    ``args``, and so in every checkpoint: other ratios at evaluation do not change it."""
    if not config.token_cluster:
        return config
    groups = trained or saved_cluster_groups(args)
    args.moe_cluster_groups = groups or config.num_cluster_groups(layout.num_nodes)
    return replace(config, cluster_groups=args.moe_cluster_groups)


def _share(num_ranks: int, divisor: int) -> int:
    """An even share of the ranks; at least 1. A wrong divisor is for `Layout` to refuse."""
    return max(1, num_ranks // max(1, divisor))


_LAYERS_DROPPED = "ranks would leave out different layers and wait for each other"
_LAYERS_KEPT = "which layers are mixtures follows from their number"
_NOT_QUANTISED = "fairseq quantises no expert, so the rest of the model would be quantised alone"
# Options of fairseq's that pass the mixtures by, or go wrong with them, whatever their value.
_REFUSED = {
    "encoder_layerdrop": _LAYERS_DROPPED,
    "decoder_layerdrop": _LAYERS_DROPPED,
    "encoder_layers_to_keep": _LAYERS_KEPT,
    "decoder_layers_to_keep": _LAYERS_KEPT,
    "quant_noise_pq": _NOT_QUANTISED,
    "quant_noise_scalar": _NOT_QUANTISED,
    "quantization_config_path": _NOT_QUANTISED,
    "scale_fc": "experts have no norm between their two layers",
    "scale_resids": "residuals around mixtures are not scaled",
    "base_layers": "the experts of BASE layers would be taken for those of the mixtures",
    "export": "torchscript cannot hold mixtures",
    "use_bmuf": "it would average the experts",
}


def check_training_options(args: Namespace) -> None:
    """Refuse, with the way out, what would train something else than what was asked for."""
    given = vars(args).get
    _, num_processes = running_processes()
    for name, why in _REFUSED.items():
        _refuse(bool(given(name)), f"--{name.replace('_', '-')}", f"{why}; leave it out")
    _refuse(
        given("ddp_backend") in ("fully_sharded", "slowmo"),
        f"--ddp-backend {given('ddp_backend')}",
        "it would average the experts; use legacy_ddp or pytorch_ddp",
    )
    _refuse(
        bool(given("fp16") or given("bf16"))
        and not given("fp16_no_flatten_grads")
        and not given("memory_efficient_fp16")
        and not given("memory_efficient_bf16")
        and given("optimizer") is not None,
        "--fp16 / --bf16 without --fp16-no-flatten-grads",
        "flat gradients no longer tell experts from shared weights; add --fp16-no-flatten-grads",
    )
    _refuse(
        given("cluster_by") not in (None, "scores")
        and given("task") is not None
        and not str(given("task")).startswith("scomoe_"),
        f"--cluster-by {given('cluster_by')} with --task {given('task')}",
        "only our tasks make tables of tokens; use --task scomoe_translation or "
        "scomoe_multilingual_translation",
    )
    if num_processes == 1:
        return
    several = f"with {num_processes} processes"
    _refuse(
        bool(given("amp")),
        f"--amp {several}",
        "processes would skip steps separately; use --fp16 --fp16-no-flatten-grads or --bf16",
    )
    _refuse(
        given("optimizer") not in (None, "moe_adam"),
        f"--optimizer {given('optimizer')} {several}",
        "it would save the experts of one process only; use --optimizer moe_adam",
    )
    _refuse(
        bool(given("memory_efficient_fp16") or given("memory_efficient_bf16")),
        f"--memory-efficient-fp16 / --memory-efficient-bf16 {several}",
        "its optimizer state cannot be spread over processes again on resumption; use "
        "--fp16 or --bf16 with --fp16-no-flatten-grads",
    )
    _refuse(
        given("zero_sharding") not in (None, "none"),
        f"--zero-sharding {given('zero_sharding')} {several}",
        "it would share out the optimizer state of experts that only one process has; leave it out",
    )
    _refuse(
        bool(given("no_save_optimizer_state")),
        f"--no-save-optimizer-state {several}",
        "the experts are gathered together with the optimizer's state; leave it out",
    )
    _refuse(
        bool(given("store_ema")),
        f"--store-ema {several}",
        "the averages of the other processes' experts would be lost; train without it and "
        "average checkpoints with scomoe-average",
    )
    _refuse(
        bool(given("eval_bleu")) and not str(given("task")).startswith("scomoe_"),
        f"--eval-bleu {several} and --task {given('task')}",
        "processes would decode for different numbers of steps and wait for each other; use "
        "--task scomoe_translation, whose processes take every step together",
    )


def _refuse(condition: bool, what: str, why: str) -> None:
    if condition:
        raise UserError(f"{what} does not work with MoE layers: {why}")
