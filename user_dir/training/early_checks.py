"""What the model would refuse of the options alone, found before torch and fairseq are imported."""

from argparse import Namespace
from collections.abc import Sequence

from user_dir.fast_moe.config import MoeConfig
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.transformer.checks import check_scomoe_layout, check_stacks
from user_dir.transformer.new_run import check_new_run, choose_clusters
from user_dir.transformer.sizes import SIZES

# The sizes that mixtures must fit, and fairseq's of its `transformer`.
_SIZES = {
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_embed_dim": 512,
    "encoder_ffn_embed_dim": 2048,
}


def check_mixture(options: Namespace, rest: Sequence[str]) -> None:
    """Refuse such options.

    Args:
        options: those that --help shows; others are among the `rest`.

    Raises:
        UserError: mixtures do not fit each other, the layers or the layout.
    """
    if options.arch not in SIZES:
        return
    args = Namespace(**vars(options))
    args.lr = [float(one) for one in options.lr.strip("[]() ").split(",")]
    args.fp16 = "--fp16" in rest
    try:
        _set_sizes(args, rest)
    except ValueError:  # which fairseq's parser says
        return
    choose_clusters(args)
    config = MoeConfig.from_args(args)
    if not config.has_moe:
        return
    check_new_run(args)
    check_stacks(config, args)
    if args.moe_nodes is not None and args.moe_ranks_per_node is not None:
        check_scomoe_layout(config, Layout(args.moe_nodes, args.moe_ranks_per_node))


def _set_sizes(args: Namespace, rest: Sequence[str]) -> None:
    """What is given, or else the architecture's."""
    for name, value in {**_SIZES, **SIZES[args.arch]}.items():
        flag = f"--{name.replace('_', '-')}"
        given = value_of(flag, rest)
        if given is not None:
            setattr(args, name, int(given))
        elif getattr(args, name, None) is None:
            setattr(args, name, value)
    for name in "embed_dim", "ffn_embed_dim":
        given = value_of(f"--decoder-{name.replace('_', '-')}", rest)
        setattr(args, f"decoder_{name}", int(given or getattr(args, f"encoder_{name}")))


def value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """The value of an option, which is the last that is given; None: it is not."""
    value = None
    for at, one in enumerate(arguments):
        name, equals, rest = one.partition("=")
        if name == flag:
            value = rest if equals else "".join(arguments[at + 1 : at + 2])
    return value
