"""docs/export.md: its commands and programs, run as they stand there; translations like ours."""

import io
import json
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from tests.support.checkpoints import FIXTURE
from tests.support.commands import ROOT
from tests.support.trained import MAX_POSITIONS, Trained, small_training
from user_dir.cli import export, train
from user_dir.text.lines import clean_line
from user_dir.translation import Translator

transformers = pytest.importorskip("transformers")
ctranslate2 = pytest.importorskip("ctranslate2")

PAGE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^scomoe-export (?:.*\\\n)*.*", PAGE, re.MULTILINE)
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
BILINGUAL = ["--task", "scomoe_translation", "-s", "en", "-t", "de"]


@pytest.fixture(scope="module")
def folder(bilingual: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page begins with: checkpoints of mixtures, of a dense model, of many languages."""
    here = tmp_path_factory.mktemp("export")
    lists = bilingual.data
    multilingual = ["--task", "scomoe_multilingual_translation"]
    multilingual += ["--lang-dict", str(lists / "langs.txt")]
    multilingual += ["--lang-pairs", str(lists / "pairs.txt")]
    multilingual += ["--encoder-langtok", "src", "--decoder-langtok"]
    for name, options in (
        ("dense", [*BILINGUAL, "--moe-freq", "0", "--max-update", "80"]),
        ("seq", [*BILINGUAL, "--scomoe-type", "seq", "--moe-freq", "1", "--max-update", "2"]),
        ("multi", [*multilingual, "--moe-freq", "0", "--max-update", "80"]),
    ):
        # Not as a process of its own, which takes longer to begin than to train.
        arguments = small_training(bilingual.corpus, here / name, options)
        assert train.main([*arguments, "--no-epoch-checkpoints"]) == 0
        (here / name / "checkpoint_last.pt").rename(here / name / "checkpoint_best.pt")
    (here / "model").mkdir()
    (here / "model" / "checkpoint_best.pt").symlink_to(bilingual.checkpoint)
    return here


def export_in(folder: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> Path:
    """Run a command of the page; returns the folder that it has made."""
    monkeypatch.chdir(folder)
    arguments = shlex.split(command.replace("\\\n", " "))[1:]
    out = folder / arguments[arguments.index("--out") + 1]
    if not out.exists():
        assert export.main(arguments) == 0
    return out


def lines_of(corpus: Path, language: str = "en") -> list[str]:
    return (corpus / "raw" / f"test.en-de.{language}").read_text(encoding="utf-8").splitlines()[:40]


def ours(checkpoint: Path, lines: list[str], **options) -> list[str]:
    directions = {name: options.pop(name) for name in ("source", "target") if name in options}
    with Translator.load(checkpoint, cpu=True, **options) as translator:
        return translator.translate(lines, **directions)


def theirs(out: Path, lines: list[str], *, batch: int = 16, **options) -> list[str]:
    """What transformers makes of an exported model, in batches with padding."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(out).eval()
    found = []
    for start in range(0, len(lines), batch):
        sources = tokenizer(lines[start : start + batch], padding=True, return_tensors="pt")
        generated = model.generate(**sources, **options)
        found += tokenizer.batch_decode(generated, skip_special_tokens=True)
    return list(map(clean_line, found))


def page_program(index: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The last line that a program of the page prints."""
    monkeypatch.chdir(folder)
    with redirect_stdout(io.StringIO()) as printed:
        exec(PROGRAMS[index], {})
    return clean_line(printed.getvalue().splitlines()[-1])


LINE = "two hundred and seven"


@pytest.mark.parametrize("beam", [1, 5])
def test_transformers_translate_as_we_do(folder, three_languages, monkeypatch, beam) -> None:
    out = export_in(folder, monkeypatch, COMMANDS[0])
    lines = lines_of(three_languages)
    expected = ours(folder / "model" / "checkpoint_best.pt", lines, beam=beam)
    assert len(set(expected)) > 8
    assert theirs(out, lines, num_beams=beam) == expected


def test_the_pages_program_of_transformers_prints_our_translation(folder, monkeypatch) -> None:
    export_in(folder, monkeypatch, COMMANDS[0])
    (expected,) = ours(folder / "model" / "checkpoint_best.pt", [LINE])
    assert page_program(0, folder, monkeypatch) == expected


def test_ctranslate2_translates_as_we_do(folder, three_languages, monkeypatch) -> None:
    out = export_in(folder, monkeypatch, COMMANDS[1])
    lines = [LINE, *lines_of(three_languages)]
    expected = ours(folder / "dense" / "checkpoint_best.pt", lines)
    assert page_program(1, folder, monkeypatch) == expected[0]
    import sentencepiece

    spm = sentencepiece.SentencePieceProcessor(model_file=str(out / "spm.model"))
    translator = ctranslate2.Translator(str(out), compute_type="float32")
    found = translator.translate_batch(
        spm.encode(lines, out_type=str), beam_size=5, max_decoding_length=MAX_POSITIONS - 1
    )
    assert [clean_line(spm.decode(one.hypotheses[0])) for one in found] == expected


def test_seq_is_exported_as_it_evaluates_everywhere(folder, monkeypatch, capsys) -> None:
    checkpoint = str(folder / "seq" / "checkpoint_best.pt")
    assert export.main([checkpoint, "--to", "hf", "--out", str(folder / "refused")]) == 2
    assert "'scomoe_inference_partition': 'everywhere'" in capsys.readouterr().err
    assert not (folder / "refused").exists()
    out = export_in(folder, monkeypatch, COMMANDS[2])
    assert json.loads((out / "config.json").read_text())["encoder_sparse_step"] == 1


def test_languages_are_told_by_their_tokens(folder, three_languages, monkeypatch) -> None:
    out = export_in(folder, monkeypatch, COMMANDS[3])
    checkpoint = folder / "multi" / "checkpoint_best.pt"
    (expected,) = ours(checkpoint, [LINE], source="en", target="fr")
    assert page_program(2, folder, monkeypatch) == expected
    tokens = json.loads((out / "directions.json").read_text())
    assert tokens["en-fr"] == {"source": "__en__", "target": "__fr__"}

    told = folder / "multi-en-de"
    arguments = [str(checkpoint), "--to", "hf", "--out", str(told), "-s", "en", "-t", "de"]
    assert export.main(arguments) == 0
    lines = lines_of(three_languages)
    expected = ours(checkpoint, lines, source="en", target="de", beam=1)
    assert theirs(told, lines, num_beams=1) == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["no/such.pt", "--to", "hf"], "CHECKPOINT (no/such.pt): no such file"),
        ([str(FIXTURE / "checkpoint.pt"), "--to", "hf", "-s", "fr"], "--source-lang fr"),
        (
            [str(FIXTURE / "checkpoint.pt"), "--to", "ctranslate2"],
            "A mixture of experts cannot be exported",
        ),
        ([str(FIXTURE / "checkpoint.pt"), "--to", "hf"], "cannot be exported: NllbMoe"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence_and_leaves_nothing(
    options, said, tmp_path, capsys
) -> None:
    common = ["--out", str(tmp_path / "out"), "--data", str(FIXTURE / "bin"), "--pre-tokenized"]
    assert export.main([*options, *common]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("scomoe-export: error: ")
    assert said in line
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_written_to(tmp_path, capsys) -> None:
    assert export.main(["model.pt", "--to", "hf", "--out", str(tmp_path)]) == 2
    assert f"--out ({tmp_path}) exists" in capsys.readouterr().err


@pytest.mark.parametrize(("to", "package"), [("hf", "safetensors"), ("ctranslate2", "ctranslate2")])
def test_a_missing_package_is_named(to, package, tmp_path, capsys, monkeypatch) -> None:
    real = export.find_spec
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == package else real(name))
    assert export.main(["model.pt", "--to", to, "--out", str(tmp_path / "out")]) == 2
    assert f"({package}); install them with: pip install 'scomoe[{to}]'" in capsys.readouterr().err
