"""What `benchmarks.learning` trains: variants of the model, and corpora with their settings."""

from dataclasses import dataclass, replace

SEQ = ("--scomoe-type", "seq", "--ratio1", "0.2", "--ratio2", "0.5")
HALF_SEQ = ("--scomoe-type", "seq", "--ratio1", "0.1", "--ratio2", "0.25")
FEAT = ("--scomoe-type", "feat", "--ratio1", "0.25", "--ratio2", "0.5")
SCORES = ("--token-cluster", "--cluster-by", "scores")
DENSE = ("--moe-freq", "0")
VARIANTS = {
    "dense": DENSE,
    "gshard": (),
    "switch": ("--moe-top1-expert",),
    "seq": SEQ,
    "feat": FEAT,
    "seq+cluster": (*SEQ, *SCORES),
    "feat+cluster": (*FEAT, *SCORES),
}
_TABLE = ("--token-cluster", "--cluster-by", "token", "--cluster-table")
TOKEN, SIMILAR = (*_TABLE, "random"), (*_TABLE, "similar")
KMEANS = ("--token-cluster", "--cluster-by", "kmeans", "--cluster-table", "similar")
LANGUAGE = ("--token-cluster", "--cluster-by", "language")
THRESHOLD = ("--scomoe-partition", "threshold")
GLOBAL = ("--moe-balance-scope", "global")
BY_NODE = ("--scomoe-type", "seq", "--ratio1", "0", "--ratio2", "0.9")
# Other ways to cluster, each alone and with Seq; by --only.
CLUSTERS = {
    "cluster by token": TOKEN,
    "cluster by similar token": SIMILAR,
    "cluster by language": LANGUAGE,
    "cluster by kmeans": KMEANS,
    "cluster by similar token, global balance": (*SIMILAR, *GLOBAL),
    "seq by threshold": (*SEQ, *THRESHOLD),
    "seq by node": BY_NODE,
    "seq+cluster by token": (*SEQ, *TOKEN),
    "seq+cluster by similar token": (*SEQ, *SIMILAR),
    "seq+cluster by kmeans": (*SEQ, *KMEANS),
    "seq+cluster by language": (*SEQ, *LANGUAGE),
    "seq by node+cluster by token": (*BY_NODE, *TOKEN),
    "seq by node+cluster by similar token": (*BY_NODE, *SIMILAR),
    "seq by node+cluster": (*BY_NODE, *SCORES),
    "feat+cluster by similar token": (*FEAT, *SIMILAR),
    "seq+cluster by similar token, threshold": (*SEQ, *SIMILAR, *THRESHOLD),
    "seq+cluster by similar token, global balance": (*SEQ, *SIMILAR, *GLOBAL),
}
# Every feed-forward layer so wide, a dense model has the parameters of 8 experts in every second.
WIDE = "4.5 x hidden width"
# What seq+cluster changes, one thing at a time; by --only.
CONTROLS = {
    "dense, same parameters": (
        *DENSE,
        *("--encoder-ffn-embed-dim", WIDE),
        *("--decoder-ffn-embed-dim", WIDE),
    ),
    "gshard, global balance": GLOBAL,
    "gshard, reordered": ("--reorder-layers",),
    "gshard+cluster": SCORES,
    "seq, reordered": (*SEQ, "--reorder-layers"),
    "seq/2+cluster": (*HALF_SEQ, *SCORES),
    "cluster by token, changing": TOKEN,
}
# What trains a variant that no option makes, instead of scomoe-train.
PROGRAMS = {"cluster by token, changing": "benchmarks.changing_tables"}
HALF_WIDTH = "D/2"  # of the model that is trained
# What others do about the network or train mixtures with, one thing changed against gshard; by
# --only. A bias goes with the second best expert, without noise.
PEERS = {
    "sigmoid gate": ("--moe-gate", "sigmoid"),
    "one node a token": ("--moe-limit-nodes", "1"),
    "gating dropout": ("--moe-gating-dropout", "0.2"),
    "shares by distance": ("--moe-topology-shares", "0.5,0.3,0.2"),
    "balance by bias": ("--moe-balance", "bias"),
    "no balance": ("--moe-balance", "none"),
    "bottleneck": ("--scomoe-type", "bottleneck", "--moe-exchange-dim", HALF_WIDTH),
    "expert choice": ("--moe-expert-choice",),
    "z-loss": ("--moe-z-loss-wt", "0.001"),
    "shared expert": ("--moe-shared-expert-ffn-dim", "256"),
    "conditional routing": ("--moe-cmr",),
    "expert masking": ("--moe-eom", "0.1"),
    "final masking": ("--moe-fom", "0.1"),
}
ALL = VARIANTS | CLUSTERS | CONTROLS | PEERS


@dataclass(frozen=True)
class Experiment:
    """A corpus and how to train on it; ranks are those of 2 nodes x 2 ranks."""

    options: tuple[str, ...]
    updates: int
    max_tokens: int  # of a rank
    precision: tuple[str, ...] = ()
    width: int = 128  # of the model
    ffn_width: int = 256  # of feed-forward layers and experts

    def changed_by(self, variant: str) -> list[str]:
        """The options of a variant."""
        of_this_model = {HALF_WIDTH: self.width // 2, WIDE: self.ffn_width * 9 // 2}
        return [str(of_this_model.get(option, option)) for option in ALL[variant]]

    @staticmethod
    def is_dense(variant: str) -> bool:
        """Whether a variant has no mixtures."""
        return ALL[variant][:2] == DENSE


NUMBERS = Experiment(
    options=(
        *("--task", "scomoe_multilingual_translation", "--encoder-langtok", "tgt"),
        *("--arch", "scomoe_tiny", "--dropout", "0", "--lr", "2e-3"),
        *("--lr-scheduler", "polynomial_decay", "--warmup-updates", "150"),
    ),
    updates=1200,
    max_tokens=300,
)
MULTI30K = Experiment(
    options=(
        *("--task", "scomoe_translation", "-s", "en", "-t", "de", "--arch", "scomoe_tiny"),
        *("--encoder-embed-dim", "256", "--encoder-ffn-embed-dim", "512", "--dropout", "0.2"),
        *("--lr", "3e-3", "--lr-scheduler", "inverse_sqrt", "--warmup-updates", "200"),
    ),
    updates=460,  # 4 epochs
    max_tokens=1024,
    precision=("--bf16", "--fp16-no-flatten-grads"),
    width=256,
    ffn_width=512,
)
_EN_DE = (
    *("--task", "scomoe_translation", "-s", "en", "-t", "de", "--arch", "scomoe_tiny"),
    *("--dropout", "0.1", "--lr", "4e-3", "--warmup-updates", "100"),
)
# As long as it takes to see whether clusters help: 0.1 bits between seeds.
SHORT = Experiment(options=(*_EN_DE, "--lr-scheduler", "inverse_sqrt"), updates=240, max_tokens=512)
# Until mixtures are about level with dense models.
LONG = replace(SHORT, updates=960)
# Five passes, at the end of which the learning rate is 0: seeds differ less by chance.
ANNEALED = replace(SHORT, options=(*_EN_DE, "--lr-scheduler", "polynomial_decay"), updates=1200)
# The same, with half of the width: a dense model has too little room then, and mixtures pass it.
NARROW = replace(ANNEALED, options=(*ANNEALED.options, "--encoder-embed-dim", "64"), width=64)
# Eight languages of Debian's package descriptions, both ways.
DEBIAN = Experiment(
    options=(
        *("--task", "scomoe_multilingual_translation", "--encoder-langtok", "tgt"),
        *("--sampling-method", "temperature", "--sampling-temperature", "3"),
        *("--arch", "scomoe_tiny", "--share-all-embeddings", "--dropout", "0.1", "--lr", "3e-3"),
        *("--lr-scheduler", "inverse_sqrt", "--warmup-updates", "150"),
        *("--max-source-positions", "128", "--max-target-positions", "128"),
    ),
    updates=400,
    max_tokens=512,
)
EXPERIMENTS = {
    "numbers": NUMBERS,
    "multi30k": MULTI30K,
    "multi30k-short": SHORT,
    "multi30k-long": LONG,
    "multi30k-annealed": ANNEALED,
    "multi30k-narrow": NARROW,
    "debian-short": DEBIAN,
}
