"""OPUS-100 from a small tarball in the published form, whole script and stages."""

import os
import re
import shlex
import subprocess

import pytest

from tests.scripts.corpus_commands import read_all, read_side, run_script
from tests.scripts.large_corpora import OPUS_SIZES, lines, opus_members, unpack_opus, write_opus
from tests.scripts.test_prepare_wmt import corpus
from user_dir.cli.prepare_opus100 import get_parser, main

SCRIPT = "multilingual_preprocess.sh"
SMALL = ("--vocab-size", "400", "--character-coverage", "1")
SUPERVISED = "opus-100-corpus/v1.0/supervised"


@pytest.fixture(scope="module")
def tarball(tmp_path_factory):
    return write_opus(tmp_path_factory.mktemp("opus") / "opus-100-corpus-v1.0.tar.gz")


@pytest.fixture(scope="module")
def prepared(tarball, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "out"
    options = ["--tarball", str(tarball), "--out", str(out), *SMALL, "--workers", "2"]
    done = run_script(SCRIPT, *options)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def prepare(out, *options):
    return main(["--out", str(out), *SMALL, "--workers", "1", *map(str, options)])


def test_the_script_prepares_every_pair_with_one_dictionary(prepared):
    out, said = prepared
    binary = out / "bin"
    assert (
        binary / "pairs.txt"
    ).read_text() == "en-cs,cs-en,en-de,de-en,en-fr,fr-en,en-zh_x,zh_x-en\n"
    assert (binary / "lang_dict.txt").read_text() == "cs\nde\nen\nfr\nzh_x\n"
    assert (binary / "langs.txt").read_text() == (binary / "lang_dict.txt").read_text()
    assert len({path.read_bytes() for path in binary.glob("dict.*.txt")}) == 1
    assert len(list(binary.glob("dict.*.txt"))) == 5
    for (a, b), (train, dev, test) in OPUS_SIZES.items():
        for split, size in zip(("valid", "test"), (dev, test), strict=True):
            assert (binary / f"{split}.{a}-{b}.{a}.idx").exists() == (size > 0)
        kept = (out / f"raw/train.{a}-{b}.{b}").read_text("utf-8").splitlines()
        assert read_side(out, "train", f"{a}-{b}", b) == kept
        # One overlapping, one too long and one empty line more in cs-en.
        assert len(kept) == train + (a == "cs")
    assert re.search(r"text \S+ \[4 of 4\]", said) and "GB free" in said


def test_pairs_without_held_out_sets_are_trained_and_listed_apart(prepared):
    out, said = prepared
    assert "en-zh_x: has no valid and no test set" in said
    for split in ("valid", "test"):
        listed = (out / f"bin/{split}_pairs.txt").read_text()
        assert listed == "en-cs,cs-en,en-de,de-en,en-fr,fr-en\n"
    assert "en-zh_x\t20\t0\t0" in (out / "bin/sizes.tsv").read_text().splitlines()


def test_long_sentences_go_from_training_and_dropped_lines_are_told(prepared):
    out, said = prepared
    assert "long long" not in (out / "raw/train.cs-en.en").read_text("utf-8")
    assert "cs-en, train: dropped 1 empty" in said


def test_the_test_sets_are_read_by_the_evaluation(prepared):
    from user_dir.text.pairs import parse_directions
    from user_dir.text.scoring.test_sets import read_test_set

    out, _ = prepared
    for direction in parse_directions((out / "bin/test_pairs.txt").read_text().strip()):
        test_set = read_test_set(out, "test", direction)
        assert len(test_set.sources) == len(test_set.references) > 0


def test_sentences_of_any_test_set_are_told_and_dropped_on_request(tarball, prepared, tmp_path):
    planted = " ".join(lines("en", 1, 86)[0].split())  # a test sentence of de-en, in cs-en too
    out, said = prepared
    assert "cs-en: 1 training pairs are in test sets, kept" in said
    assert planted in (out / "raw/train.cs-en.en").read_text("utf-8").splitlines()
    options = ["--tarball", tarball, "--drop-test-overlap"]
    assert prepare(tmp_path / "out", *options) == 0
    tests = {
        (path.suffix, line)
        for path in (tmp_path / "out/raw").glob("test.*")
        for line in path.read_text("utf-8").splitlines()
    }
    for path in (tmp_path / "out/raw").glob("train.*"):
        for line in path.read_text("utf-8").splitlines():
            assert (path.suffix, line) not in tests


def test_the_unpacked_folder_and_one_process_give_the_same_bytes(prepared, tmp_path):
    raw = unpack_opus(tmp_path / "raw")
    assert prepare(tmp_path / "out", "--raw", raw) == 0
    assert corpus(tmp_path / "out") == corpus(prepared[0])
    before = read_all(tmp_path / "out")
    assert prepare(tmp_path / "out", "--raw", raw / SUPERVISED) == 0
    assert read_all(tmp_path / "out") == before


def test_chosen_directions_alone_are_prepared(tarball, tmp_path, capsys):
    assert prepare(tmp_path / "out", "--tarball", tarball, "--directions", "fr-en,en-de") == 0
    binary = tmp_path / "out/bin"
    assert (binary / "pairs.txt").read_text() == "fr-en,en-de\n"
    assert (binary / "langs.txt").read_text() == "de\nen\nfr\n"
    assert {path.name.split(".")[1] for path in binary.glob("train.*")} == {"de-en", "en-fr"}
    assert prepare(tmp_path / "new", "--tarball", tarball, "--directions", "en-xx,en-de") == 2
    assert 'has no "en-xx"; it has de-en' in capsys.readouterr().err


def test_fewer_directions_leave_nothing_of_the_others(tarball, tmp_path):
    options = ["--tarball", tarball, "--directions"]
    assert prepare(tmp_path / "out", *options, "fr-en,en-de") == 0
    assert prepare(tmp_path / "out", *options, "fr-en") == 2
    assert prepare(tmp_path / "out", *options, "fr-en", "--overwrite") == 0
    assert not [name for name in corpus(tmp_path / "out") if "de-en" in name]


def truncate(folder):
    data = write_opus(folder / "x.tar.gz").read_bytes()
    (folder / "x.tar.gz").write_bytes(data[:-2000])
    return ["--tarball", folder / "x.tar.gz"]


def unequal(folder):
    path = unpack_opus(folder) / SUPERVISED / "de-en/opus.de-en-dev.en"
    path.write_bytes(path.read_bytes() + b"one more\n")
    return ["--raw", folder]


def half_a_pair(folder):
    (unpack_opus(folder) / SUPERVISED / "en-fr/opus.en-fr-test.fr").unlink()
    return ["--raw", folder]


def nothing(folder):
    return ["--raw", folder]


def no_tarball(folder):
    return ["--tarball", folder / "x.tar.gz"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "x.tar.gz: damaged or truncated archive"),
        (unequal, "de-en/opus.de-en-dev.de has 6 lines but "),
        (half_a_pair, "en-fr/opus.en-fr-test.fr: no such file, but the pair en-fr needs it"),
        (nothing, "holds no OPUS-100"),
        (no_tarball, "x.tar.gz): No such file"),
    ],
)
def test_bad_input_is_named(tmp_path, capsys, damage, message):
    (tmp_path / "raw").mkdir()
    assert prepare(tmp_path / "out", *damage(tmp_path / "raw")) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "out" / "bin").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own; the test gets its folder and a function that sets its size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size, *more):
        options = ",".join([*more, f"size={size}k"])
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        return subprocess.run(command, capture_output=True).returncode

    if mount(700):
        pytest.skip("only root may mount a file system")
    yield folder, lambda size: mount(size, "remount")
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("size", [220, 300, 560])
def test_a_full_disk_is_named_and_the_same_command_goes_on_later(
    tarball, prepared, small_disk, capsys, size
):
    folder, resize = small_disk
    assert resize(size) == 0
    assert prepare(folder / "out", "--tarball", tarball) == 2
    said = capsys.readouterr().err
    assert "no room left" in said and said.count("\n") == 1
    assert resize(8000) == 0
    assert prepare(folder / "out", "--tarball", tarball) == 0
    assert "unpacked: done already" in capsys.readouterr().out
    assert corpus(folder / "out") == corpus(prepared[0])


def test_help_has_an_example_and_names_every_option_of_the_command():
    shown = run_script(SCRIPT, "--help").stdout
    flags = set(re.findall(r"--[a-z][a-z0-9-]*", shown)) - {"--dry-run"}
    known = {flag for action in get_parser()._actions for flag in action.option_strings}
    assert flags == known - {"-h", "--help"}
    example = shown.split("Example:\n")[1].strip()
    get_parser().parse_args(shlex.split(example)[1:])


def test_dry_run_prints_a_command_that_a_shell_can_take(tmp_path):
    shown = run_script(SCRIPT, "--dry-run", "--out", "a b", "--directions", "$x", cwd=tmp_path)
    words = shlex.split(shown.stdout)
    assert words[-5:] == ["user_dir.cli.prepare_opus100", "--out", "a b", "--directions", "$x"]
    assert os.listdir(tmp_path) == []


def test_the_archives_of_these_tests_are_laid_out_as_published():
    names = opus_members()
    assert f"{SUPERVISED}/de-en/opus.de-en-train.de" in names
    assert f"{SUPERVISED}/en-zh_x/opus.en-zh_x-dev.en" not in names
