"""What `scomoe-train --help` tells, against what fairseq's parser makes of the same options."""

from fairseq import options
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.models.transformer import TransformerConfig
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_REGISTRY

from user_dir import register  # noqa: F401 - fairseq must know our names
from user_dir.training.declared import CRITERION, OF_FAIRSEQ, TASKS
from user_dir.training.fairseq_source import names_known
from user_dir.training.option_help import example_of, option_parser


def options_with(task: str, *, chosen: list[tuple[str, str]]) -> dict:
    """By the option, what fairseq's own parser makes of it; of two of one name the first."""
    parser = options.get_training_parser()
    ARCH_MODEL_REGISTRY["scomoe"].add_args(parser)
    TASK_REGISTRY[task].add_args(parser)
    for kind, name in chosen:
        dataclass = REGISTRIES[kind]["dataclass_registry"][name]
        options.gen_parser_from_dataclass(parser, dataclass())
    return {flag: action for action in parser._actions for flag in action.option_strings}


def real_options() -> dict:
    """Those of all that can be chosen; ours first."""
    ours = [("criterion", "moe_cross_entropy"), ("optimizer", "moe_adam")]
    ours += [("lr_scheduler", "inverse_sqrt")]
    others = [(kind, one) for kind in REGISTRIES for one in REGISTRIES[kind]["dataclass_registry"]]
    return {
        **options_with("scomoe_multilingual_translation", chosen=others),
        **options_with("scomoe_translation", chosen=ours),
    }


def test_help_and_fairseq_agree_on_our_options_and_their_defaults():
    real, told = real_options(), option_parser()
    declared = {one.flag for one in (*CRITERION, *TASKS)}
    ours = [a for group in told._action_groups[-4:] for a in group._group_actions]
    ours += [a for a in told._actions if a.option_strings[-1] in declared]
    assert len(ours) > 50
    for action in ours:
        flag = action.option_strings[-1]
        for name in ("default", "help", "nargs"):
            assert getattr(action, name) == getattr(real[flag], name), (flag, name)
        assert list(action.choices or ()) == list(real[flag].choices or ()), flag
    moe = {flag for flag in real if "moe" in flag}
    assert moe <= {flag for action in told._actions for flag in action.option_strings}


def test_what_is_told_of_fairseqs_options_are_fairseqs_defaults():
    real = real_options()
    model = TransformerConfig()
    for option in OF_FAIRSEQ:
        default = model.dropout if option.flag == "--dropout" else real[option.flag].default
        assert option.default == default, option.flag
        assert option.short is None or real[option.short] is real[option.flag]


def test_every_option_has_an_example_that_it_takes():
    parser = option_parser()
    help_text = " ".join(parser.format_help().split())
    for action in parser._actions:
        flag = action.option_strings[-1]
        example = example_of(flag)
        assert bool(example) == (action.nargs != 0), flag
        parser.parse_args([flag, example] if example else [flag])
        assert f"{flag} {example}".strip() in help_text


def test_no_option_of_fairseq_is_taken_for_a_misspelt_one():
    known = names_known()
    assert known is not None
    unknown = {flag for flag in real_options() if flag.startswith("--")} - known.flags
    assert not unknown
    assert ARCH_MODEL_REGISTRY.keys() <= known.names["--arch"]
    assert TASK_REGISTRY.keys() <= known.names["--task"]
    for kind in ("criterion", "optimizer", "lr_scheduler"):
        flag = f"--{kind.replace('_', '-')}"
        assert REGISTRIES[kind]["registry"].keys() <= known.names[flag], flag
