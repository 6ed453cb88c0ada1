"""The command-line options of `scomoe`."""

from user_dir.fast_moe.choices import (
    CLUSTER_KEYS,
    EXCHANGE_SCHEDULES,
    EXCHANGES,
    EXPERT_BACKENDS,
    EXPERT_GRAD_RULES,
    GATE_TYPES,
    INFERENCE_PARTITIONS,
    INFERENCE_ROUTINGS,
    PARTITIONS,
    SCOMOE_TYPES,
)
from user_dir.option_values import finite_number, whole_number
from user_dir.transformer.gate_flags import add_gate_options


def add_moe_options(parser) -> None:
    """Add the options of the MoE layers; names as in fairseq's MoE branch where it has them."""
    add_mixture_options(parser)
    add_layout_options(parser)
    add_gate_options(parser)


def add_mixture_options(parser) -> None:
    """Add those of where mixtures are, and of their experts."""
    add = parser.add_argument
    add(
        "--moe-freq",
        type=whole_number(),
        metavar="N",
        help="every N-th feed-forward of both stacks is a mixture of experts; 0: none (default: 2; "
        "with --arch scomoe 0)",
    )
    add(
        "--encoder-moe-freq",
        type=whole_number(),
        metavar="N",
        help="that of the encoder alone (default: --moe-freq)",
    )
    add(
        "--decoder-moe-freq",
        type=whole_number(),
        metavar="N",
        help="that of the decoder alone (default: --moe-freq)",
    )
    add(
        "--moe-expert-count",
        type=whole_number(),
        metavar="E",
        help="experts of a layer, over all ranks; a multiple or a divisor of their number "
        "(default: 8; with --arch scomoe_large 32, with scomoe 0)",
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
        "--moe-exchange",
        choices=EXCHANGES,
        help="how tokens of the largest reach travel: direct, once for each of their experts; "
        "hierarchical, once to each node that holds one, where they are passed on and outputs are "
        "added up; exact counts then. Same results up to rounding (default: direct)",
    )
    add(
        "--moe-exchange-schedule",
        choices=EXCHANGE_SCHEDULES,
        help="overlap: with SCoMoE, experts work on near tokens while far ones travel; serial: one "
        "exchange after the other. Same results up to rounding (default: overlap)",
    )


def add_layout_options(parser) -> None:
    """Add those of the logical layout."""
    add = parser.add_argument
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
        "share of every token's features does; bottleneck: tokens travel with --moe-exchange-dim "
        "features; none: all go everywhere (default: none)",
    )
    add(
        "--moe-exchange-dim",
        type=whole_number(),
        metavar="D",
        help="with --scomoe-type bottleneck: features that travel, a multiple of 8 below the "
        "model's width; experts have as many weights as without, between narrow ends",
    )
    add(
        "--ratio1",
        type=finite_number(),
        metavar="A",
        help="share (0 to 1) of tokens or features that stay on their rank; of no effect without "
        "--scomoe-type seq or feat. Trained with --token-cluster at A = 0 and B < 1 there is a "
        "cluster for every node, otherwise one for every expert (default: seq 0.2, feat 0.25)",
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
        "kmeans, directions of the tokens' vectors. With --token-cluster (default: "
        "token; scores with --temperature or --gate-type, which are for it alone, and with "
        "fairseq's own tasks)",
    )
    add(
        "--cluster-table",
        metavar="TABLE",
        help="which tokens share a cluster with --cluster-by token and kmeans: random; similar, "
        "those that occur in like contexts; or a file with lines of a token, a tab and its "
        "cluster (default: similar)",
    )
    add(
        "--cluster-warmup",
        type=whole_number(),
        metavar="N",
        help="updates for which --cluster-by kmeans goes by the table (default: 100)",
    )


# By subject, as --help shows them.
OPTION_GROUPS = (
    ("mixtures of experts", add_mixture_options),
    ("the accelerators that the model is laid out for", add_layout_options),
    ("gates, balance, and what stands beside experts", add_gate_options),
    ("structured communication and clusters (SCoMoE)", add_scomoe_options),
)
