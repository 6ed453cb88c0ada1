"""What benchmarks.limits measures: large inputs of every kind, made up as they are needed."""

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from benchmarks.decoding_models import SMALL_PLAN, Plan, Work, prepare
from benchmarks.training import TINY

MODEL = "seq+cluster"
_HELD_OUT = 5  # sentences of each pair that are validated on, and translated
_WIDTH = ("--encoder-embed-dim", 32, "--encoder-ffn-embed-dim", 32, "--moe-expert-ffn-dim", 32)


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    long_bytes: int = 1_000_000
    long_lines: int = 20
    lines: int = 50_000
    pairs: int = 2_000_000
    languages: int = 100
    directions: int = 1_000
    pair_lines: int = 200  # of each pair of many languages
    is_small: bool = False


TINY_SIZES = Sizes(
    long_bytes=20_000, long_lines=2, lines=60, pairs=400, languages=4, directions=6, is_small=True
)


@dataclass(frozen=True)
class Step:
    """A command to measure, and the folder or file that it writes and that must not be there."""

    what: str
    command: list[object]
    output: Path | None = None


def long_lines(work: Path, sizes: Sizes) -> Iterator[Step]:
    """Lines of a megabyte among usual ones."""
    model = _model(work, sizes)
    usual = _usual_lines(model)
    long = f"{' '.join(usual)} "
    long = (long * (sizes.long_bytes // len(long) + 1))[: sizes.long_bytes]
    text = _write(work / "long.en", [*usual[:8], *[long] * sizes.long_lines, *usual[:8]])
    yield _translation(f"{sizes.long_lines} such lines translated", model, text, work)
    counts = range(1000)
    lines = [f"{usual[n % len(usual)]} {n}" for n in counts]
    for language in "en", "de":
        _write(work / f"train.{language}", [*lines, *[long] * sizes.long_lines])
    yield _preparation(
        f"{sizes.long_lines} such pairs prepared among 1,000 usual ones",
        [work / "train.en", work / "train.de"],
        work / "out",
    )


def many_lines(work: Path, sizes: Sizes) -> Iterator[Step]:
    """A long text."""
    model = _model(work, sizes)
    text = _write(work / "many.en", islice(cycle(_usual_lines(model)), sizes.lines))
    yield _translation(f"{sizes.lines:,} lines translated", model, text, work)


def short_pairs(work: Path, sizes: Sizes) -> Iterator[Step]:
    """Many pairs of a few words each."""
    dice = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(dice.choices(letters, k=dice.randint(2, 8))) for _ in range(20_000)]

    def sentences() -> Iterator[list[str]]:
        # A few words are frequent and most are rare, as in a language.
        ranks = random.Random(2)
        for _ in range(sizes.pairs):
            picked = [int(ranks.expovariate(1) * 1500) for _ in range(ranks.randint(2, 6))]
            yield [words[min(rank, len(words) - 1)] for rank in picked]

    _write(work / "train.en", map(" ".join, sentences()))
    reversed_words = ([word[::-1] for word in sentence] for sentence in sentences())
    _write(work / "train.de", map(" ".join, reversed_words))
    files = [work / "train.en", work / "train.de"]
    yield _preparation(f"{sizes.pairs:,} pairs of 2 to 6 words prepared", files, work / "out")
    options = ["--task", "scomoe_translation", "-s", "en", "-t", "de"]
    yield _training("the first update on them", work, options)


def many_languages(work: Path, sizes: Sizes) -> Iterator[Step]:
    """English to and from every other language."""
    names = _names(sizes.languages)
    pairs = [(names[0], other) for other in names[1:]]
    yield from _multilingual(work, pairs, sizes)


def many_directions(work: Path, sizes: Sizes) -> Iterator[Step]:
    """Every language to and from its neighbours."""
    names = _names(sizes.languages)
    steps = range(1, len(names) // 2)
    neighbours = (
        (a, names[(i + step) % len(names)]) for step in steps for i, a in enumerate(names)
    )
    pairs = list(islice(neighbours, sizes.directions // 2))
    if 2 * len(pairs) != sizes.directions:
        raise SystemExit(
            f"--directions ({sizes.directions}) must be even, and at most {2 * len(steps)} for "
            f"each of --languages ({sizes.languages})"
        )
    yield from _multilingual(work, pairs, sizes)


CASES = {
    "long-lines": long_lines,
    "many-lines": many_lines,
    "short-pairs": short_pairs,
    "languages": many_languages,
    "directions": many_directions,
}


def _multilingual(work: Path, pairs: list[tuple[str, str]], sizes: Sizes) -> Iterator[Step]:
    names = sorted({name for pair in pairs for name in pair})
    num_lines = sizes.pair_lines + 2 * _HELD_OUT
    numbers = [f"{n // 97} {n * 31 % 89} {n}" for n in range(num_lines)]
    for first, second in pairs:
        for language in first, second:
            lines = [f"{language} says {number} {language}" for number in numbers]
            _write(work / "text" / f"train.{first}-{second}.{language}", lines)
    count = f"{2 * len(pairs):,} directions of {len(names)} languages"
    yield _preparation(f"{count} prepared", [work / "text"], work / "out")
    lists = work / "out" / "bin"
    options = ["--task", "scomoe_multilingual_translation", "--encoder-langtok", "tgt"]
    options += ["--lang-dict", lists / "langs.txt", "--lang-pairs", lists / "pairs.txt"]
    yield _training("the first update, a validation and a save", work, options, scores=True)
    model = ["--path", work / "run" / "checkpoint_last.pt", "--cpu"]
    search = ["--beam", 1, "--max-len-b", 5, "--max-tokens", 1024]
    corpus = ["--corpus", work / "out", "--output", work / "evaluation", "--pivot", names[0]]
    yield Step(
        f"{_HELD_OUT} lines of each direction translated and scored",
        ["user_dir.cli.evaluate", *model, *corpus, *search],
        work / "evaluation",
    )
    text = _write(work / "one.txt", ["says 1 2 3"])
    direction = ["-s", pairs[0][0], "-t", pairs[0][1]]
    yield Step(
        "one line translated",
        ["user_dir.cli.translate", *model, "--input", text, *direction, *search],
    )


def _training(what: str, work: Path, options: list[object], *, scores: bool = False) -> Step:
    command = ["user_dir.cli.train", work / "out" / "bin", "--processes", 1, "--cpu", *options]
    command += ["--arch", "scomoe_tiny", "--save-dir", work / "run", *_WIDTH]
    command += ["--encoder-attention-heads", 2, "--decoder-attention-heads", 2]
    command += ["--moe-nodes", 2, "--moe-ranks-per-node", 2, "--criterion", "moe_cross_entropy"]
    command += ["--optimizer", "moe_adam", "--lr", "1e-3", "--max-tokens", 1024]
    command += ["--max-update", 1, "--no-epoch-checkpoints"]
    command += [] if scores else ["--disable-validation"]
    return Step(what, command, work / "run")


def _preparation(what: str, files: list[Path], out: Path) -> Step:
    command = ["user_dir.cli.prepare", "--train", *files, "--out", out, "--workers", 2]
    held_out = ["--valid-lines", _HELD_OUT, "--test-lines", _HELD_OUT]
    return Step(what, [*command, *held_out, "--vocab-size", 8000], out)


def _translation(what: str, model: Work, text: Path, work: Path) -> Step:
    command = ["user_dir.cli.translate", "--path", model.checkpoint(MODEL), "--cpu"]
    command += ["--input", text, "--output", work / "translated.txt", "--max-len-b", 100]
    return Step(what, command, work / "translated.txt")


def _model(work: Path, sizes: Sizes) -> Work:
    """A model that has learned to translate numbers in words, as benchmarks.decoding has."""
    plan = Plan(
        size=SMALL_PLAN.size if sizes.is_small else TINY,
        updates=2 if sizes.is_small else 240,
        train_pairs=200 if sizes.is_small else 6000,
        lines=24 if sizes.is_small else 1600,
        few_lines=24 if sizes.is_small else 400,
        start_lines=8,
        batch_size=8,
        models=(MODEL,),
    )
    model = Work(work.parent / "model", plan)
    prepare(model, "cpu")
    return model


def _usual_lines(model: Work) -> list[str]:
    return model.text(model.plan.lines).read_text(encoding="utf-8").splitlines()


def _names(count: int) -> list[str]:
    return [f"l{number:03}" for number in range(count)]


def _write(path: Path, lines) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    return path


def clear(path: Path | None) -> None:
    """Remove what a step of an earlier run has written."""
    if path is not None and path.is_dir():
        shutil.rmtree(path)
    elif path is not None:
        path.unlink(missing_ok=True)
