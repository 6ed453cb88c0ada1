"""fairseq's own commands join the pieces of a folder that tells how."""

import shutil
from argparse import Namespace

import pytest

from tests.support.tasks import TRANSLATION, make_trained_task, multilingual
from user_dir.training.pieces import pieces_of_data

NOT_NAMED = Namespace(bpe=None)


@pytest.mark.parametrize("is_multilingual", [False, True])
def test_output_is_joined_where_the_folder_came_in_pieces(small_corpus, tmp_path, is_multilingual):
    data = shutil.copytree(small_corpus / "bin", tmp_path / "data-bin")
    options = multilingual(small_corpus) if is_multilingual else TRANSLATION
    task = make_trained_task(small_corpus, *options, data=str(data))
    bpe = task.build_bpe(NOT_NAMED)
    assert bpe.decode("▁ei n ▁Hund") == "ein Hund"
    assert bpe.decode("ein Hund") == "ein Hund"  # joined by --post-process already
    assert bpe.encode("▁ei n") == "▁ei n"
    named = task.build_bpe(Namespace(bpe="characters"))
    assert type(named).__module__.startswith("fairseq")


def test_a_prepared_folder_with_a_model_is_left_to_fairseq(small_corpus, tmp_path):
    assert pieces_of_data(str(small_corpus / "bin")) is None
    assert pieces_of_data(str(tmp_path)) is None
    data = shutil.copytree(small_corpus / "bin", tmp_path / "prepared" / "bin")
    (tmp_path / "prepared" / "post-process.txt").write_text("subword_nmt\n")
    assert pieces_of_data(str(data)).decode("un@@ der@@ stand") == "understand"
