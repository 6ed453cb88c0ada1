"""Our tasks as `fairseq-train` sets them up, with a small model on 2 nodes x 2 ranks."""

from pathlib import Path

from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from tests.support.commands import train_arguments

TRANSLATION = ("--task", "scomoe_translation", "-s", "en", "-t", "de")


def multilingual(corpus: Path) -> tuple[str, ...]:
    """The arguments of the multilingual task for both directions of the small corpus."""
    return (
        *("--task", "scomoe_multilingual_translation", "--lang-pairs", "en-de,de-en"),
        *("--lang-dict", str(corpus / "bin" / "langs.txt")),
    )


def make_trained_task(corpus: Path, *arguments: str, data: str | None = None):
    """A task whose model and criterion are built, and so knows that it trains.

    Args:
        corpus: the prepared folder.
        arguments: the task and its options, and others of fairseq's.
        data: the binarised data, if it is not that of the folder.
    """
    common = [str(part) for part in train_arguments(corpus / "bin", corpus)]
    at = common.index("--task")
    common[0], common[at : at + 6] = data or common[0], []
    parser = options.get_training_parser(default_task=arguments[1])
    args = options.parse_args_and_arch(parser, input_args=[*common, *arguments])
    cfg = convert_namespace_to_omegaconf(args)
    task = tasks.setup_task(cfg.task)
    task.build_model(cfg.model)
    task.build_criterion(cfg.criterion)
    return task
