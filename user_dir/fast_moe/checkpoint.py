"""One consolidated checkpoint file, from and to any number of processes. Level 5."""

import logging
import os
import shutil
import sys
import weakref
import zipfile
from argparse import Namespace
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor, nn

from user_dir.fast_moe.errors import UserError
from user_dir.fast_moe.expert_sharding import ShardedExperts, gather_experts, own_share
from user_dir.fast_moe.shares import Shares
from user_dir.fast_moe.topology import Layout, Topology

logger = logging.getLogger(__name__)

_LAYOUT_KEY = "moe_layout"
_FEATURE_SHARES_KEY = "moe_feature_shares"


@dataclass(frozen=True)
class TrainedModel:
    """The model of this process, for its optimizer: fairseq hands that nothing but parameters."""

    model: "weakref.ref[nn.Module]"
    topology: Topology


_trained: TrainedModel | None = None


def declare_trained(model, topology: Topology) -> None:
    """Note the model that the optimizer built next belongs to."""
    global _trained
    model._ddp_params_and_buffers_to_ignore = [  # read by torch's DDP
        name for name, parameter in model.named_parameters() if hasattr(parameter, "expert")
    ]
    _trained = TrainedModel(weakref.ref(model), topology)


def declare_dense() -> None:
    """Note that the model that the optimizer built next belongs to has no MoE layer."""
    global _trained
    _trained = None


def trained_model() -> TrainedModel | None:
    """The model that was built last, None where it has no MoE layer."""
    return _trained


def save_layout(model: nn.Module, layout: Layout) -> None:
    """Keep the layout among the model's tensors."""
    layout_tensor = torch.tensor([layout.num_nodes, layout.ranks_per_node])
    model.register_buffer(_LAYOUT_KEY, layout_tensor)


def save_feature_shares(model: nn.Module, shares: Shares) -> None:
    """Keep α and β of SCoMoE-Feat among the model's tensors, as fractions."""
    numbers = [n for share in (shares.local, shares.node) for n in share.as_integer_ratio()]
    model.register_buffer(_FEATURE_SHARES_KEY, torch.tensor(numbers))


def check_saved_feature_shares(state_dict: dict[str, Tensor], shares: Shares) -> None:
    """Refuse a checkpoint whose features are split in another way: its experts would not fit."""
    saved = state_dict.get(_FEATURE_SHARES_KEY)
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
    saved = state_dict.get(_LAYOUT_KEY)
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
        state_dict[_LAYOUT_KEY] = torch.tensor([layout.num_nodes, layout.ranks_per_node])


def saved_layout(args: Namespace) -> Layout | None:
    """The layout of the checkpoint that training would resume from; None where there is none."""
    path = _restore_path(args)
    if path is None or not os.path.isfile(path):
        return None
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is damaged, as when a save was cut off; scomoe-train restores it from the "
            "newest whole checkpoint of its folder, --restore-file names another one"
        )
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    saved = state.get("model", {}).get(_LAYOUT_KEY)
    if saved is None:
        return None
    layout = Layout(*saved.tolist())
    logger.info("layout %s taken from %s", layout, path)
    return layout


def mend_checkpoints(save_dir: str) -> None:
    """Replace a best or last checkpoint whose writing was cut off by the newest whole one.

    fairseq writes every new checkpoint under a temporary name first, but copies it to
    `checkpoint_best.pt` and `checkpoint_last.pt` in place. The newest whole file is then the
    one that was being copied, so nothing is lost.
    """
    folder = Path(save_dir)
    damaged = [
        path
        for path in (folder / "checkpoint_best.pt", folder / "checkpoint_last.pt")
        if path.is_file() and not zipfile.is_zipfile(path)
    ]
    if not damaged:
        return
    whole = [path for path in folder.glob("checkpoint*.pt") if zipfile.is_zipfile(path)]
    if not whole:
        raise UserError(f"{damaged[0]} is damaged and {folder} holds no whole checkpoint")
    newest = max(whole, key=lambda path: path.stat().st_mtime)
    for path in damaged:
        logger.warning("%s was cut off while it was written; restored from %s", path, newest)
        partial = path.with_name(f"{path.name}.mend{os.getpid()}")
        shutil.copyfile(newest, partial)
        os.replace(partial, path)


def _restore_path(args: Namespace) -> str | None:
    given = vars(args).get
    restore_file, save_dir = given("restore_file"), given("save_dir")
    if not restore_file or not save_dir:
        return None
    last = os.path.join(save_dir, restore_file)
    if os.path.isabs(restore_file) or os.path.isfile(last):
        return last
    return given("finetune_from_model") or restore_file


def gather_model() -> None:
    """Collect all experts of the trained model on process 0. A collective.

    Raises:
        RuntimeError: while an exception is handled, as when fairseq wants to save `crash.pt`:
            the other processes are not gathering and would be waited for without end.
    """
    if _trained is None or _trained.topology.num_processes == 1:
        return
    if sys.exc_info()[0] is not None:
        raise RuntimeError(
            f"process {_trained.topology.process_index} failed; no crash.pt is written, since "
            "the experts of the other processes cannot be gathered. The last checkpoint stands; "
            "run the same command to resume from it"
        )
    model = _trained.model()
    assert model is not None
    for module in model.modules():
        if isinstance(module, ShardedExperts):
            module.gather()


def gather_optimizer_state(param_groups: list, state: dict) -> dict[int, dict[str, Tensor]]:
    """The optimizer's state of all experts by parameter index, on process 0. A collective."""
    gathered: dict[int, dict[str, Tensor]] = {}
    for index, parameter in _expert_parameters(param_groups):
        of_parameter: dict[str, Tensor] = {}
        for name, value in sorted(state.get(parameter, {}).items()):
            if _is_sharded(value, parameter):
                value = gather_experts(value, _topology())
            of_parameter[name] = value
        gathered[index] = of_parameter
    return gathered


def own_optimizer_state(param_groups: list, state: dict[int, dict]) -> dict[int, dict]:
    """A loaded optimizer state with every expert's share of this process."""
    own = dict(state)
    for index, parameter in _expert_parameters(param_groups):
        own[index] = {
            name: own_share(value, _topology())
            if torch.is_tensor(value) and value.dim() == parameter.dim()
            else value
            for name, value in state.get(index, {}).items()
        }
    return own


def _expert_parameters(param_groups: list) -> list[tuple[int, nn.Parameter]]:
    parameters = [parameter for group in param_groups for parameter in group["params"]]
    return [(i, p) for i, p in enumerate(parameters) if hasattr(p, "expert")]


def _is_sharded(value: object, parameter: nn.Parameter) -> bool:
    return torch.is_tensor(value) and value.shape == parameter.shape


def _topology() -> Topology:
    assert _trained is not None, "only a model with MoE layers has expert parameters"
    return _trained.topology
