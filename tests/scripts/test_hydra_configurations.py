"""The configurations of train_scripts/hydra; docs/from-fairseq.md's test trains with one."""

from argparse import ArgumentParser, Namespace

import pytest
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import OmegaConf

from tests.support.commands import ROOT
from user_dir import register  # noqa: F401 - fairseq must know our names
from user_dir.fast_moe.config import MoeConfig
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.transformer.checks import check_scomoe_layout, check_stacks
from user_dir.transformer.model import ScomoeModel

FOLDER = ROOT / "train_scripts" / "hydra"


@pytest.mark.parametrize("name", ["quickstart", "base", "large"])
def test_a_configuration_names_options_that_there_are_and_a_model_that_fits_its_layout(name):
    config = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    parser = ArgumentParser()
    ScomoeModel.add_args(parser)
    assert config["model"].keys() - {"_name"} <= vars(parser.parse_args([])).keys()
    dataclasses = {kind: REGISTRIES[kind]["dataclass_registry"] for kind in REGISTRIES}
    dataclasses["task"] = TASK_DATACLASS_REGISTRY
    for kind in "task", "criterion", "optimizer", "lr_scheduler":
        fields = dataclasses[kind][config[kind]["_name"]].__dataclass_fields__
        assert config[kind].keys() <= fields.keys()

    args = Namespace(**config["model"])
    ARCH_CONFIG_REGISTRY[args._name](args)
    moe = MoeConfig.from_args(args)
    check_stacks(moe, args)
    check_scomoe_layout(moe, Layout(args.moe_nodes, args.moe_ranks_per_node))
    assert moe.num_experts % (args.moe_nodes * args.moe_ranks_per_node) == 0
