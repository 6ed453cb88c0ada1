"""The layout and the ratios of a model in its checkpoint, and what may not be changed."""

import logging
from argparse import Namespace
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from user_dir.checkpoints.files import read_state
from user_dir.checkpoints.resuming import start_of_training
from user_dir.checkpoints.structure import FEATURE_SHARES_KEY, LAYOUT_KEY
from user_dir.errors import UserError
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.reach import Shares

logger = logging.getLogger(__name__)


def save_layout(model: nn.Module, layout: Layout) -> None:
    """Keep the layout among the model's tensors."""
    layout_tensor = torch.tensor([layout.num_nodes, layout.ranks_per_node])
    model.register_buffer(LAYOUT_KEY, layout_tensor)


def save_feature_shares(model: nn.Module, shares: Shares) -> None:
    """Keep α and β of SCoMoE-Feat among the model's tensors, as fractions."""
    numbers = [n for share in (shares.local, shares.node) for n in share.as_integer_ratio()]
    model.register_buffer(FEATURE_SHARES_KEY, torch.tensor(numbers))


def check_saved_feature_shares(state_dict: dict[str, Tensor], shares: Shares) -> None:
    """Refuse a checkpoint whose features are split in another way: its experts would not fit."""
    saved = state_dict.get(FEATURE_SHARES_KEY)
    if saved is None:
        return
    local, node = (Fraction(*saved[i : i + 2].tolist()) for i in (0, 2))
    if (local, node) != (shares.local, shares.node):
        raise UserError(
            f"the checkpoint was trained with --ratio1 {float(local):g} --ratio2 {float(node):g}, "
            f"but --ratio1 {float(shares.local):g} --ratio2 {float(shares.node):g} was asked for; "
            "with --scomoe-type feat the ratios shape the experts, so leave them as they were "
            "trained"
        )


def check_saved_layout(state_dict: dict[str, Tensor], layout: Layout, *, is_given: bool) -> None:
    """Refuse a checkpoint of another number of ranks, unless the layout was asked for by flag."""
    saved = state_dict.get(LAYOUT_KEY)
    if saved is None:
        return
    saved_layout = Layout(*saved.tolist())
    if saved_layout.num_ranks != layout.num_ranks and not is_given:
        raise UserError(
            f"the checkpoint is laid out for {saved_layout}, the model for {layout}; run it with "
            f"--moe-nodes {saved_layout.num_nodes} --moe-ranks-per-node "
            f"{saved_layout.ranks_per_node}, or ask for another layout with these two options"
        )
    if saved_layout != layout:
        logger.info("layout changed from %s to %s, as asked for", saved_layout, layout)
        state_dict[LAYOUT_KEY] = torch.tensor([layout.num_nodes, layout.ranks_per_node])


def trained_cluster_groups(options: Mapping[str, Any]) -> int | None:
    """Clusters of the checkpoint that these options are from; None if they are from none.

    Checkpoints from before the number was kept clustered by node whenever nothing stayed on a rank.
    """
    if options.get("moe_cluster_groups") is not None:
        return int(options["moe_cluster_groups"])
    if "moe_layout_given" not in options or not options.get("token_cluster"):
        return None
    num_nodes = int(options["moe_nodes"])
    of_seq = options.get("scomoe_type") in ("seq", "feat")
    ratio1 = options.get("ratio1")
    ratio1 = (0.2 if of_seq else 0.0) if ratio1 is None else ratio1
    by_node = num_nodes > 1 and ratio1 == 0 and (options.get("ratio2") or 0) < 1
    return num_nodes if by_node else int(options["moe_expert_count"])


def saved_cluster_groups(args: Namespace) -> int | None:
    """Clusters of the checkpoint that training would resume from; None where there is none."""
    state = _state_to_resume(args)
    if state is None or state.get("cfg") is None:
        return None
    return trained_cluster_groups(vars(state["cfg"]["model"]))


def saved_layout(args: Namespace) -> Layout | None:
    """The layout of the checkpoint that training would resume from; None where there is none."""
    state = _state_to_resume(args)
    saved = None if state is None else state.get("model", {}).get(LAYOUT_KEY)
    if saved is None:
        return None
    layout = Layout(*saved.tolist())
    logger.info("layout %s taken from the checkpoint", layout)
    return layout


def _state_to_resume(args: Namespace) -> dict[str, Any] | None:
    start = start_of_training(vars(args))
    if start is None or not start.path.is_file():
        return None
    try:
        return read_state(start.path)
    except UserError as error:
        raise UserError(f"{start.flag} ({start.path}): {error}") from None
