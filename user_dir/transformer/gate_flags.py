"""The command-line options of gates: how experts are chosen, weighted and kept in balance."""

from user_dir.fast_moe.gating.options import BALANCE_SCOPES, BALANCES, GATES, POLICIES
from user_dir.option_values import finite_number, whole_number

_BESIDE_EXPERTS = (
    (
        "--moe-shared-expert-ffn-dim",
        whole_number(),
        "H",
        "hidden width of a network that every token passes beside its experts (default: none; with "
        "--moe-cmr that of the stack's feed-forward layers)",
    ),
    (
        "--moe-cmr-dropout",
        finite_number(),
        "P",
        "share of tokens that see the shared network alone in training, with --moe-cmr "
        "(default: 0)",
    ),
    (
        "--moe-cmr-budget",
        finite_number(),
        "B",
        "share of the mixtures, with --moe-cmr, that a loss draws to (default: 0.5)",
    ),
    (
        "--moe-cmr-loss-wt",
        finite_number(),
        "W",
        "weight of that loss (default: 0.1)",
    ),
    (
        "--moe-eom",
        finite_number(),
        "P",
        "share of a token's experts whose output is masked in training (default: 0)",
    ),
    (
        "--moe-fom",
        finite_number(),
        "P",
        "share of tokens whose experts' outputs are all masked in training (default: 0)",
    ),
)


def add_gate_options(parser) -> None:
    """Add them; names as in fairseq's MoE branch where it has them."""
    add = parser.add_argument
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
        "--moe-expert-choice",
        action="store_true",
        help="in the encoder experts choose tokens, not tokens experts: each takes the same share "
        "of every rank's; in the decoder, where this would show later tokens, tokens still choose",
    )
    add(
        "--moe-balance-scope",
        choices=BALANCE_SCOPES,
        help="tokens over which the balance loss takes its means: those of each rank, or those of "
        "all ranks, which lets a rank whose tokens are alike use few experts (default: rank)",
    )
    add(
        "--criterion-without-balance",
        action="store_true",
        help="train with another --criterion than moe_cross_entropy, without balance loss and the "
        "metrics of mixtures",
    )
    add(
        "--moe-gate",
        choices=GATES,
        help="probabilities of experts: softmax over those in reach, or sigmoid of each, divided "
        "by the sum of the chosen (default: softmax)",
    )
    add(
        "--moe-limit-nodes",
        type=whole_number(),
        metavar="M",
        help="choose a token's experts on at most M nodes, the best by their two most probable "
        "experts (default: on any)",
    )
    add(
        "--moe-balance",
        choices=BALANCES,
        help="what keeps experts evenly loaded: a loss; a bias on choices that follows the loads "
        "of all ranks; none (default: loss)",
    )
    add(
        "--moe-bias-update",
        type=finite_number(),
        metavar="U",
        help="how far --moe-balance bias moves a bias after an update (default: 0.001)",
    )
    add(
        "--moe-topology-shares",
        metavar="L,N,G",
        help="shares of tokens that the balance loss draws to experts of the own rank, of the rest "
        "of the node and of other nodes (default: the same for every expert)",
    )
    add(
        "--moe-gating-dropout",
        type=finite_number(),
        metavar="P",
        help="share of updates in which no token leaves its rank (default: 0)",
    )
    add(
        "--moe-gating-dropout-skip",
        action="store_true",
        help="in these updates tokens see no expert at all",
    )
    add(
        "--moe-z-loss-wt",
        type=finite_number(),
        metavar="W",
        help="weight of the loss on large logits, the mean of logsumexp(z)²; 0.001 is usual "
        "(default: 0)",
    )
    for flag, type_, metavar, text in _BESIDE_EXPERTS:
        add(flag, type=type_, metavar=metavar, help=text)
    add(
        "--moe-cmr",
        action="store_true",
        help="conditional routing: a gate mixes every mixture with a shared feed-forward network",
    )
