"""What options of `scomoe` resolve to, and what must not be combined with them."""

import logging
from argparse import Namespace
from dataclasses import replace

from user_dir.checkpoints.layout import saved_cluster_groups, saved_layout
from user_dir.errors import UserError
from user_dir.fast_moe.config import MoeConfig
from user_dir.fast_moe.layout.processes import running_layout, running_processes
from user_dir.fast_moe.layout.ranks import Layout

logger = logging.getLogger(__name__)


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


def check_training_options(args: Namespace, *, num_processes: int | None = None) -> None:
    """Refuse, with the way out, what would train something else than what was asked for.

    Args:
        num_processes: that would train; by default those that run.
    """
    given = vars(args).get
    if num_processes is None:
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
