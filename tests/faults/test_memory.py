"""Where memory runs out a command ends with a sentence, in workers and in the first process."""

import gc
from functools import partial

import pytest
import torch

from tests.support.checkpoints import FIXTURE, translate_with
from user_dir.cli.command import run_command
from user_dir.cli.prepare import main as prepare
from user_dir.text.large import binarising
from user_dir.translation.engine import Engine
from user_dir.translation.translator import Translator

CHECKPOINT = FIXTURE / "checkpoint.pt"
ON_A_CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
)


def one_error(capsys: pytest.CaptureFixture) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(ON_A_CPU),
        RuntimeError("std::bad_alloc"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
def test_whatever_says_that_memory_ran_out_becomes_a_sentence(error, capsys):
    def work() -> None:
        raise error

    assert run_command("scomoe-x", work, memory_cure="try less") == 2
    line = one_error(capsys)
    assert line.startswith("scomoe-x: error: out of memory (")
    assert line.endswith("); try less")


def test_other_failures_keep_their_trace():
    def work() -> None:
        raise RuntimeError("a mistake in the program")

    with pytest.raises(RuntimeError, match="a mistake"):
        run_command("scomoe-x", work)


def test_translation_says_what_takes_less_memory(monkeypatch, capsys):
    def out_of_memory(*_: object) -> None:
        raise RuntimeError(ON_A_CPU)

    monkeypatch.setattr(Engine, "_set_direction", out_of_memory)
    assert translate_with(CHECKPOINT) == 2
    line = one_error(capsys)
    assert line.startswith("scomoe-translate: error: out of memory ([enforce fail")
    assert "lines at once; try a smaller --max-tokens or --batch-size" in line


def test_translating_more_leaves_nothing_behind():
    lines = (FIXTURE / "source.en").read_text(encoding="utf-8").splitlines()
    load = partial(Translator.load, CHECKPOINT, data=FIXTURE / "bin", pre_tokenized=True, cpu=True)
    counts = []
    with load(beam=2, max_len_b=9) as translator:
        for _ in range(4):
            translator.translate(lines)
            gc.collect()
            counts.append(len(gc.get_objects()))
    assert counts[3] - counts[1] < len(lines)  # not even one object a line, in two rounds


def _out_of_memory(*_: object) -> None:
    raise MemoryError


@pytest.mark.parametrize("workers", [1, 2])
def test_preparing_says_what_takes_less_memory(workers, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(binarising, "_ids_of", _out_of_memory)
    sides = [tmp_path / "text.en", tmp_path / "text.de"]
    for path in sides:
        path.write_text("".join(f"one two {n}\n" for n in range(40)), encoding="utf-8")
    arguments = ["--train", *sides, "--valid", *sides, "--test", *sides, "--vocab-size", "40"]
    out = ["--out", tmp_path / "out", "--workers", workers]
    assert prepare(list(map(str, [*arguments, *out]))) == 2
    assert one_error(capsys) == (
        "scomoe-prepare: error: out of memory (MemoryError); try fewer --workers or a smaller "
        "--input-sentence-size"
    )
