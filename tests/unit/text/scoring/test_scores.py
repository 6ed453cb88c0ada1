"""Scores are sacrebleu's own, by the words of the target language."""

import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from user_dir.errors import CorpusError, UserError
from user_dir.text.scoring import tokenizers
from user_dir.text.scoring.scores import Scored, score, signatures
from user_dir.text.scoring.tokenizers import tokenizer_for

CHINESE = ["我们今天去北京看长城。", "猫坐在垫子上,狗在跑。", "天气很好"]
TRANSLATED = ["我们今天去北京看长城了。", "猫坐在垫子上,狗跑了。", "天气很好"]
ENGLISH = ["the cat sat on the mat today", "a dog ran over the green hill", "it rains"]
OURS = ["the cat sat on a mat today", "a dog ran over the hill", "it rains"]


@pytest.mark.parametrize("language", ["zh", "zh_CN", "zh-TW", "zho_Hans", "cmn"])
def test_chinese_is_scored_by_its_characters(language):
    found = score([Scored(language, TRANSLATED, [CHINESE])])
    assert found.bleu == BLEU(trg_lang="zh").corpus_score(TRANSLATED, [CHINESE]).score
    assert found.bleu > 50
    assert found.bleu_13a == BLEU().corpus_score(TRANSLATED, [CHINESE]).score
    assert found.bleu_13a < found.bleu / 2


@pytest.mark.parametrize("language", ["de", "en", "pt_BR", "deu_Latn"])
def test_other_languages_are_scored_as_ever(language):
    found = score([Scored(language, OURS, [ENGLISH])])
    assert found.bleu == found.bleu_13a == BLEU().corpus_score(OURS, [ENGLISH]).score
    assert found.chrf == CHRF().corpus_score(OURS, [ENGLISH]).score
    assert found.chrf_pp == CHRF(word_order=2).corpus_score(OURS, [ENGLISH]).score
    assert found.exact == pytest.approx(100 / 3)
    assert set(signatures([language])) == {"BLEU", "chrF", "chrF++"}


def test_languages_together_are_each_cut_by_their_own_words():
    parts = [Scored("zh", TRANSLATED, [CHINESE]), Scored("en", OURS, [ENGLISH])]
    words = [
        [tokenizer_for(language).cut(lines) for language, lines in (("zh", a), ("en", b))]
        for a, b in ((TRANSLATED, OURS), (CHINESE, ENGLISH))
    ]
    ours, references = ([line for part in of_side for line in part] for of_side in words)
    expected = BLEU(tokenize="none", force=True).corpus_score(ours, [references]).score
    assert score(parts).bleu == expected
    by_metric = signatures(["zh", "en"])
    assert "tok:zh" in by_metric["BLEU into zh"] and "tok:13a" in by_metric["BLEU into en"]


def test_several_references_are_taken_together():
    other = ["the cat sat on a mat today", "one dog ran", "rain"]
    found = score([Scored("en", OURS, [ENGLISH, other])])
    assert found.bleu == BLEU().corpus_score(OURS, [ENGLISH, other]).score
    assert found.exact == pytest.approx(200 / 3)
    assert "nrefs:2" in signatures(["en"], references=2)["BLEU"]


@pytest.mark.parametrize(("language", "name"), [("ja", "ja-mecab"), ("kor_Hang", "ko-mecab")])
def test_japanese_and_korean_say_why_they_are_cut_into_characters(language, name, monkeypatch):
    monkeypatch.setattr(tokenizers, "find_spec", lambda module: None)
    tokenizer = tokenizer_for(language)
    assert tokenizer.name == "char"
    assert name in tokenizer.note and "pip install 'sacrebleu[" in tokenizer.note
    assert signatures([language])["note"] == tokenizer.note
    monkeypatch.setattr(tokenizers, "find_spec", lambda module: object())
    assert tokenizer_for(language).name == name


def test_japanese_is_cut_by_mecab_where_it_is_installed():
    pytest.importorskip("MeCab", reason="needs sacrebleu[ja]")
    pytest.importorskip("ipadic", reason="needs sacrebleu[ja]")
    ours, reference = ["私は猫が大好きです。"], ["私は犬が大好きです。"]
    found = score([Scored("ja", ours, [reference])])
    assert found.bleu == BLEU(trg_lang="ja").corpus_score(ours, [reference]).score > 0
    assert "tok:ja-mecab" in signatures(["ja"])["BLEU"]


def test_spbleu_without_its_model_says_what_it_needs(monkeypatch):
    def fail(name):
        raise OSError("no network")

    monkeypatch.setattr(tokenizers, "_function", fail)
    with pytest.raises(UserError, match=r"--spbleu.*FLORES-200.*no network"):
        score([Scored("en", OURS, [ENGLISH])], spbleu=True)


def test_counts_that_differ_are_refused():
    with pytest.raises(CorpusError, match="2 translations cannot be scored against 3"):
        Scored("en", OURS[:2], [ENGLISH])
    with pytest.raises(CorpusError, match="0 translations"):
        Scored("en", [], [[]])
