"""The token of a language pair in front of the source, in training and in generation."""

import pytest
from fairseq import options, tasks

from user_dir.errors import UserError
from user_dir.training.language_tokens import pair_token


def make_task(data, *extra: str):
    parser = options.get_training_parser(default_task="scomoe_multilingual_translation")
    arguments = [str(data / "bin"), "--arch", "scomoe_tiny", "--lang-pairs", "en-de,de-en"]
    arguments += ["--task", "scomoe_multilingual_translation", "--encoder-lang-pair-token"]
    arguments += ["--lang-dict", str(data / "bin" / "langs.txt"), *extra]
    for side in "source", "target":
        arguments += [f"--max-{side}-positions", "64"]
    return tasks.setup_task(options.parse_args_and_arch(parser, input_args=arguments))


def test_every_source_begins_with_the_token_of_its_pair(small_corpus):
    task = make_task(small_corpus)
    task.load_dataset("valid")
    dictionary = task.source_dictionary
    indices = {pair: dictionary.index(pair_token(*pair.split("-"))) for pair in ("en-de", "de-en")}
    assert len({*indices.values(), dictionary.unk()}) == 3
    datasets = task.dataset("valid").datasets
    first = [
        {int(item["source"][0]) for item in map(one.__getitem__, range(5))} for one in datasets
    ]
    assert first == [{indices["en-de"]}, {indices["de-en"]}]


@pytest.mark.parametrize(("source", "target"), [("en", "de"), ("de", "en")])
def test_generation_prepends_the_same_token(small_corpus, source, target):
    trained = make_task(small_corpus).source_dictionary
    task = make_task(small_corpus, "--source-lang", source, "--target-lang", target)
    assert task.source_dictionary == trained
    tokens, lengths = task.get_interactive_tokens_and_lengths(["a b"], lambda line: line)
    dataset = task.build_dataset_for_inference(tokens, lengths)
    assert dataset[0]["source"][0] == trained.index(pair_token(source, target))


def test_a_pair_that_was_not_trained_is_named(small_corpus):
    task = make_task(small_corpus, "--source-lang", "en", "--target-lang", "de")
    with pytest.raises(UserError, match="de-de was not among --lang-pairs"):
        task.data_manager.get_encoder_langtok("de", "de", "src")
