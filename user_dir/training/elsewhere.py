"""Options of the paper's release and of fairseq's MoE branches that are not here, and what is."""

# By the option there; docs/from-the-paper.md has all of them, those with the same name too.
ELSEWHERE = {
    "--use-moe-pad-mask": "padding is never routed here; leave it out",
    "--df-gate-type": "it is --gate-type here, for --cluster-by scores",
    "--record-a2a-perf-stats": "bytes are always logged (moe_bytes_node, _between); leave it out",
    "--dummy-a2a": "scomoe-plan says what exchanges cost; leave it out",
    "--use-tutel-moe": "--moe-expert-backend chooses how experts multiply; leave it out",
    "--moe-local-drop": "it is --moe-gating-dropout here",
    "--cmr-gate-drop": "it is --moe-cmr-dropout here",
    "--cmr-gate-loss-p": "it is --moe-cmr-budget here",
    "--cmr-gate-loss-wt": "it is --moe-cmr-loss-wt here",
    "--moe-cmr-xgpu": "the mean of --moe-cmr is over all ranks; leave it out",
    "--is-moe": "a checkpoint says so itself; leave it out",
    "--lang-pairs-to-generate": "scomoe-evaluate translates in --directions of a model",
}
