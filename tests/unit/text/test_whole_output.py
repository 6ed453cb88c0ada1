import os
from pathlib import Path

import pytest

from user_dir.errors import CorpusError, UserError
from user_dir.text.whole_output import new_folder, write_whole


def prepared(folder):
    (folder / "bin").mkdir(parents=True)
    (folder / "spm.model").write_text("old")
    return folder


def test_the_folder_appears_complete_with_parents_and_nothing_else_remains(tmp_path):
    out = tmp_path / "a" / "out"
    with new_folder(out, overwrite=False) as folder:
        (folder / "spm.model").write_text("new")
        assert not out.exists()
    assert (out / "spm.model").read_text() == "new"
    assert os.listdir(out.parent) == ["out"]


def test_an_exception_leaves_no_trace(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out", overwrite=False) as folder:
        (folder / "half").write_text("")
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_an_existing_corpus_is_refused_and_with_overwrite_survives_until_the_end(tmp_path):
    out = prepared(tmp_path / "out")
    with pytest.raises(CorpusError, match="--overwrite"), new_folder(out, overwrite=False):
        pass
    with pytest.raises(RuntimeError), new_folder(out, overwrite=True):
        raise RuntimeError
    assert (out / "spm.model").read_text() == "old"
    with new_folder(out, overwrite=True) as folder:
        (folder / "spm.model").write_text("new")
        assert (out / "spm.model").read_text() == "old"
    assert os.listdir(out) == ["spm.model"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_with_other_things_and_a_file_are_never_replaced(tmp_path):
    out = prepared(tmp_path / "out")
    (out / "thesis.tex").write_text("")
    with pytest.raises(CorpusError, match=r"thesis\.tex"), new_folder(out, overwrite=True):
        pass
    file = out / "thesis.tex"
    with pytest.raises(CorpusError, match="is a file"), new_folder(file, overwrite=True):
        pass
    assert (out / "spm.model").exists()


def test_an_empty_folder_and_the_target_of_a_link_are_used(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with new_folder(tmp_path / "link", overwrite=False) as folder:
        (folder / "spm.model").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "spm.model").read_text() == "new"


def test_where_nothing_can_be_written_the_option_is_named():
    out = Path("/proc/scomoe")  # where not even root can
    message = r"\(/proc/scomoe\): nothing can be written in /proc .*name a folder that exists"
    with pytest.raises(UserError, match=f"^--output {message}"):
        write_whole(out, "text", flag="--output")
    with pytest.raises(UserError, match=f"^--out {message}"), new_folder(out, overwrite=False):
        pass
