"""Mistakes in the options of a training run, found before anything slow is imported.

What is not found here fairseq's own parser says, once it is there; see `sentence_of_parser`.
"""

import argparse
import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from user_dir.checkpoints.command_line import is_fairseqs
from user_dir.errors import UserError, did_you_mean
from user_dir.training.data_folder import check_data_folder, check_languages
from user_dir.training.early_checks import check_mixture, value_of
from user_dir.training.elsewhere import ELSEWHERE
from user_dir.training.fairseq_source import names_known, numbers_among
from user_dir.training.option_help import UsageError, option_parser

# Options whose values fairseq takes from what is registered.
_NAMED = ("--arch", "--task", "--criterion", "--optimizer", "--lr-scheduler")
_BILINGUAL = ("translation", "scomoe_translation")
_TRANSLATION = (
    *_BILINGUAL,
    "translation_multi_simple_epoch",
    "scomoe_multilingual_translation",
)
_KINDS = {"int": "a whole number", "float": "a number", "str": "text"}
_LISTS = "; --help lists our options, --help-all fairseq's too"
_NUMBER = re.compile(r"-\d+|-\d*\.\d+")  # as argparse tells negative numbers from options


def check_command(arguments: Sequence[str]) -> None:
    """Refuse such options of `fairseq-train` with this plugin.

    Args:
        arguments: of the process, its own name included.
    """
    name, *given = arguments or [""]
    is_training = Path(name).stem in ("fairseq-train", "train") and is_fairseqs(arguments)
    if is_training and not {"-h", "--help"} & set(given):
        check_usage(given, is_fairseqs_own=True)


def check_usage(arguments: Sequence[str], *, is_fairseqs_own: bool = False) -> None:
    """Refuse options that no run can be meant by.

    Args:
        arguments: of `scomoe-train`, or of `fairseq-train` with this plugin.
        is_fairseqs_own: it is the latter, which has found --user-dir, and has a default for --task.

    Raises:
        UserError: an option is unknown, or needed and missing, or its value is of no use.
    """
    parser = option_parser()
    given = list(arguments)
    has_other_plugin = _has_other_plugin(given, is_found=is_fairseqs_own)
    if not has_other_plugin:  # which may have options of its own
        _refuse_unknown(_flags_of(given), option_strings(parser))
    try:
        options, rest = parser.parse_known_args(given)
    except UsageError as error:
        raise UserError(sentence_of_parser(str(error))) from None
    if not is_fairseqs_own and "--task" not in _flags_of(given):
        raise UserError(
            "--task is missing: --task scomoe_translation for two languages, "
            "scomoe_multilingual_translation for more; fairseq's own, --task translation, leaves "
            "sentences out"
        )
    if options.arch is None:
        raise UserError(
            "--arch is missing, which names the model: --arch scomoe_base, say, or scomoe_tiny, "
            "scomoe_large, or scomoe with sizes of your own"
        )
    if options.optimizer is None:
        raise UserError("--optimizer is missing; --optimizer moe_adam, say, which --lr goes with")
    if not has_other_plugin:
        _refuse_unknown_names(options)
    _refuse_wrong_values(rest)
    check_mixture(options, rest)
    if options.task in _TRANSLATION:
        _check_data(given, options, rest)


def option_strings(parser: argparse.ArgumentParser) -> list[str]:
    """All options of a parser, as they are written."""
    return [flag for action in parser._actions for flag in action.option_strings]


def sentence_of_parser(message: str, known: Iterable[str] = ()) -> str:
    """What argparse says of the options, in words that say what would do.

    Args:
        known: the options that there are.
    """
    unknown = re.fullmatch(r"unrecognized arguments: (.*)", message, re.DOTALL)
    if unknown:
        flags = [one for one in unknown[1].split() if one.startswith("-")]
        if not flags:
            return f"{unknown[1]} belongs to no option: DATA is one folder{_LISTS}"
        return _unknown(flags[0].partition("=")[0], list(known))
    of_argument = re.fullmatch(r"argument (?:\S+/)?(\S+): (.*)", message, re.DOTALL)
    if of_argument:
        flag, what = of_argument[1], of_argument[2]
        choice = re.fullmatch(r"invalid choice: '(.*)' \(choose from (.*)\)", what, re.DOTALL)
        if choice:
            return _no_choice(flag, choice[1], re.findall(r"[\w.-]+", choice[2]))
        invalid = re.fullmatch(r"invalid (\S+) value: '(.*)'", what, re.DOTALL)
        if invalid:
            # Of lists fairseq's parser tells no type; a number is what they mostly are.
            kind = _KINDS.get(invalid[1], "a number, or several with commas between")
            return f"{flag} must be {kind}, not {invalid[2]!a}"
        if what.startswith("expected"):
            return f"{flag} needs a value{_LISTS}"
        return f"{flag} {what}"
    missing = re.fullmatch(r"the following arguments are required: (.*)", message)
    return f"{missing[1]} is missing{_LISTS}" if missing else message


def _flags_of(arguments: Sequence[str]) -> list[str]:
    """What argparse takes for options."""
    return [
        one.partition("=")[0]
        for one in arguments
        if one.startswith("--") and one != "--" and not _NUMBER.fullmatch(one) and " " not in one
    ]


def _has_other_plugin(arguments: Sequence[str], *, is_found: bool) -> bool:
    here = Path(__file__).resolve().parents[1]
    for at, one in enumerate(arguments):
        flag, _, value = one.partition("=")
        if flag == "--user-dir":
            given = Path(value or (arguments[at + 1] if at + 1 < len(arguments) else ""))
            if not given.is_dir() and not is_found:
                raise UserError(
                    f"--user-dir ({given}): no such folder here; scomoe-train needs none, for it "
                    "adds its own: leave it out"
                )
            # fairseq finds it beside its own folder too.
            return given.is_dir() and given.resolve() != here
    return False


def _refuse_unknown(flags: Sequence[str], ours: list[str]) -> None:
    known = names_known()
    if known is None:
        return
    for flag in flags:
        if flag in ELSEWHERE or (flag not in ours and flag not in known.flags):
            raise UserError(_unknown(flag, ours, known.flags))


def _unknown(flag: str, *known: Collection[str]) -> str:
    if flag in ELSEWHERE:
        return f"there is no option {flag}: {ELSEWHERE[flag]}"
    # Of hundreds of options some are always a little alike.
    return f"there is no option {flag}{did_you_mean(flag, *known, cutoff=0.75, otherwise=_LISTS)}"


def _refuse_unknown_names(options: argparse.Namespace) -> None:
    known = names_known()
    for flag in _NAMED:
        name = vars(options)[flag[2:].replace("-", "_")]
        if known and name is not None and name not in known.names[flag]:
            raise UserError(_no_choice(flag, name, known.names[flag]))


def _refuse_wrong_values(rest: Sequence[str]) -> None:
    """Of options of fairseq's that are numbers."""
    numbers = numbers_among(_flags_of(rest))
    for at, one in enumerate(rest):
        flag, equals, value = one.partition("=")
        if flag not in numbers:
            continue
        if not equals:
            value = "".join(rest[at + 1 : at + 2])
            if not value or value.startswith("--"):
                raise UserError(f"{flag} needs a value{_LISTS}")
        try:
            (int if numbers[flag] == "int" else float)(value)
        except ValueError:
            raise UserError(f"{flag} must be {_KINDS[numbers[flag]]}, not {value!a}") from None


def _no_choice(flag: str, name: str, choices: Collection[str]) -> str:
    ours = [one for one in sorted(choices) if one.startswith(("scomoe", "moe_"))]
    shown = ", ".join(ours or sorted(choices)[:10])
    return f"{flag} {name} is unknown{did_you_mean(name, choices, otherwise=f'; {shown} would do')}"


def _check_data(arguments: Sequence[str], options: argparse.Namespace, rest: Sequence[str]) -> None:
    data = _data_of(rest)
    if data is None:
        # After a switch it looks like an option's value; those of others are no such folders.
        if not any(_is_corpus(one) for one in arguments):
            raise UserError(
                "DATA is missing, or is no folder of binarised text; name it first: scomoe-train "
                "corpora/mine/bin --arch …"
            )
        return
    folder = check_data_folder(data)
    if options.task in _BILINGUAL:
        check_languages(folder, source=options.source_lang, target=options.target_lang)
    else:
        _check_lists(arguments)


def _check_lists(arguments: Sequence[str]) -> None:
    """Of a multilingual task: the directions are named, and files that are named are there."""
    pairs = value_of("--lang-pairs", arguments)
    if pairs is None:
        raise UserError(
            "--lang-pairs is missing, the directions to train: --lang-pairs en-de,de-en, say, or "
            "the file pairs.txt of scomoe-prepare"
        )
    for flag, value in (
        ("--lang-pairs", pairs),
        ("--lang-dict", value_of("--lang-dict", arguments)),
    ):
        is_file = value is not None and (os.sep in value or value.endswith(".txt"))
        if is_file and value is not None and not Path(value).is_file():
            raise UserError(
                f"{flag} ({value}): no such file; scomoe-prepare writes pairs.txt and langs.txt "
                "beside the dictionaries"
            )


def _data_of(rest: Sequence[str]) -> str | None:
    """The folder of the data, where it cannot be anything else.

    Args:
        rest: the arguments without the options that are known here, and their values.
    """
    if rest and not rest[0].startswith("-"):
        return rest[0]
    if len(rest) > 1 and not any(one.startswith("-") for one in rest[-2:]):
        return rest[-1]  # after an option's value
    return None


def _is_corpus(text: str) -> bool:
    folder = Path(text.split(os.pathsep)[0])
    try:
        return folder.is_dir() and any(folder.glob("dict.*.txt"))
    except OSError:  # too long a name, say
        return False
