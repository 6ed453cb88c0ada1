"""The first stages of a corpus: from parallel text in whatever form to cleaned text."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from user_dir.cli.preparing.large_plan import PairText, Plan
from user_dir.cli.preparing.prepared_folder import step
from user_dir.errors import CorpusError
from user_dir.text.corpus import SPLITS
from user_dir.text.large.cleaning import ParallelText, cleaned, write_cleaned
from user_dir.text.large.encoding import TextPair
from user_dir.text.large.held_out import write_held_out
from user_dir.text.large.resumable import Facts, Stage, StageLog
from user_dir.text.large.sentence_hashes import read_hashes, sentence_hash, write_hashes
from user_dir.text.lines import written_lines
from user_dir.text.pairs import Pair


@dataclass(frozen=True)
class Reading:
    """What is read: the texts of each pair and split, and what is held out of the training text.

    `held_out` are the sentences of each pair that get a set without having one.
    """

    texts: Mapping[Pair, Mapping[str, Sequence[ParallelText]]]
    held_out: Mapping[str, int] = field(default_factory=dict)
    drop_test_overlap: bool = False
    drop_undecodable: bool = False  # instead of ending with an error: nobody mends a public corpus

    def missing(self, pair: Pair) -> dict[str, int]:
        """The splits that are held out for a pair."""
        return {split: size for split, size in self.held_out.items() if not self.texts[pair][split]}


def read_texts(log: StageLog, plan: Plan, reading: Reading) -> list[PairText]:
    """Clean all pairs side by side, the held-out sets first: training text must not hold them."""
    reader = _Reader(plan, reading)
    pairs = list(reading.texts)
    stages = {
        "held-out text": [reader.held_out_stage(pair) for pair in pairs],
        "text": [reader.training_stage(pair) for pair in pairs],
    }
    try:
        held, train = (
            log.run_all(title, some, workers=reader.outer) for title, some in stages.items()
        )
    except CorpusError:  # other text will come, and perhaps in other files
        for stage in (one for some in stages.values() for one in some):
            log.forget(stage)
        raise
    facts = [{**before, "train": after} for before, after in zip(held, train, strict=True)]
    _tell(pairs, facts, dropped=reading.drop_test_overlap)
    return [
        PairText(
            pair,
            {split: [plan.folder.text(split, pair)] for split in SPLITS if split in one},
            [one["train"]["lines"]],
        )
        for pair, one in zip(pairs, facts, strict=True)
    ]


class _Reader:
    """The stages of each pair; their work goes to other processes."""

    def __init__(self, plan: Plan, reading: Reading) -> None:
        self.plan, self.reading = plan, reading
        # Several pairs go side by side; a single one is divided among the workers.
        workers = plan.given.workers
        self.outer, self.inner = (workers, 1) if len(reading.texts) > 1 else (1, workers)
        self._known: dict[str, frozenset[int]] = {}

    def held_out_stage(self, pair: Pair) -> Stage:
        """The sets that are not trained on, and which sentences are in them."""
        outputs = [
            path for split in ("valid", "test") for path in self.plan.folder.text(split, pair).files
        ]
        hashes = [self._hashes(kind, pair) for kind in ("held_out", "test")]
        return Stage(
            f"held-out text {pair}",
            self.plan.text_settings,
            [*outputs, *hashes],
            partial(self._write_held_out, pair),
        )

    def training_stage(self, pair: Pair) -> Stage:
        """The training text, without what is held out of any pair."""
        output = self.plan.folder.text("train", pair)
        return Stage(
            f"text {pair}",
            self.plan.text_settings,
            list(output.files),
            partial(self._write_training, pair),
        )

    def _write_held_out(self, pair: Pair) -> Facts:
        facts: Facts = {}
        texts = self.reading.texts[pair]
        outputs = {split: self.plan.folder.text(split, pair) for split in SPLITS}
        for split in ("valid", "test"):
            if texts[split]:
                facts[split] = self._write_cleaned(pair, split)
        hashes: set[int] = set()
        missing = self.reading.missing(pair)
        if missing:
            pairs = cleaned(
                texts["train"],
                pair,
                workers=self.inner,
                dropped=Counter(),
                drop_undecodable=self.reading.drop_undecodable,
            )
            with closing(pairs):
                hashes = write_held_out(pairs, pair, missing, outputs)
            facts |= {split: {"lines": size} for split, size in missing.items()}
        write_hashes(self._hashes("held_out", pair), hashes)
        tests = _sentences(outputs["test"], pair) if texts["test"] else ()
        write_hashes(self._hashes("test", pair), set(tests))
        return facts

    def _write_training(self, pair: Pair) -> Facts:
        held_out, in_tests = map(self._hashes_of_all, ("held_out", "test"))
        return self._write_cleaned(pair, "train", held_out=held_out, in_tests=in_tests)

    def _hashes_of_all(self, kind: str) -> frozenset[int]:
        # Once a process, not once a pair: every pair has a file.
        if kind not in self._known:
            files = (self._hashes(kind, other) for other in self.reading.texts)
            self._known[kind] = read_hashes(files)
        return self._known[kind]

    def _write_cleaned(
        self,
        pair: Pair,
        split: str,
        *,
        held_out: frozenset[int] = frozenset(),
        in_tests: frozenset[int] = frozenset(),
    ) -> Facts:
        return write_cleaned(
            self.reading.texts[pair][split],
            pair,
            self.plan.folder.text(split, pair),
            workers=self.inner,
            held_out=held_out,
            in_tests=in_tests,
            drop_test_overlap=self.reading.drop_test_overlap,
            drop_undecodable=self.reading.drop_undecodable,
            tell=step,
        )

    def _hashes(self, kind: str, pair: Pair) -> Path:
        return self.plan.folder.work / "sentences" / f"{kind}.{pair}.bin"


def _sentences(files: TextPair, pair: Pair) -> Iterator[int]:
    for language, path in zip(pair.languages, files.files, strict=True):
        for line in written_lines(path):
            yield sentence_hash(language, line)


def _tell(pairs: Sequence[Pair], facts: Sequence[Facts], *, dropped: bool) -> None:
    for pair, one in zip(pairs, facts, strict=True):
        for split in SPLITS:
            if reasons := one.get(split, {}).get("dropped"):
                what = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
                step(f"  {pair}, {split}: dropped {what}")
        if overlap := one["train"]["test_overlap"]:
            done = "dropped" if dropped else "kept (--drop-test-overlap drops them)"
            step(f"  {pair}: {overlap:,} training pairs are in test sets, {done}")
        if missing := [split for split in SPLITS if split not in one]:
            step(f"  {pair}: has no {' and no '.join(missing)} set")
