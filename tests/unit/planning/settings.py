"""Settings of plans, as the command line would make them."""

from user_dir.cli.plan import get_parser
from user_dir.planning.setting import Setting

LAYOUT = {"moe_nodes": 2, "moe_ranks_per_node": 2}


def arguments(**options):
    """The options of a plan, on two nodes with two ranks if nothing else is said."""
    args = get_parser().parse_args([])
    for name, value in {**LAYOUT, **options}.items():
        assert hasattr(args, name), name
        setattr(args, name, value)
    return args


def setting(*, device: str = "cpu", **options) -> Setting:
    return Setting.of(arguments(**options), device=device)
