"""Beam search with the experts spread over processes gives the hypotheses of one process."""

import pytest
import torch
from fairseq.search import LexicallyConstrainedBeamSearch
from fairseq.sequence_generator import SequenceGenerator
from fairseq.token_generation_constraints import pack_constraints

from tests.support.models import DICTIONARY, SMALL, build_model, make_batch
from tests.support.ranks import run_processes
from user_dir.fast_moe.layout.processes import running_processes
from user_dir.training.in_step import StepwiseEnsemble, decode_everywhere

LENGTHS = [9, 2, 5, 7, 3, 3, 8, 1, 4, 6, 5]
VARIANTS = {
    "gshard": {},
    "switch": {"moe_top1_expert": True},
    "feat": {"scomoe_type": "feat", "ratio1": 0.25, "ratio2": 0.5},
    "cluster": {"token_cluster": True, "scomoe_type": "seq", "ratio1": 0.0, "ratio2": 0.0},
}
# The sentences that each process has, out of all; some have none.
SHARES = {
    2: [range(len(LENGTHS)), range(0)],
    4: [range(3), range(0), range(3, 4), range(4, len(LENGTHS))],
}


def make_generator(options: dict, *, is_constrained: bool = False):
    model = build_model(**{**SMALL, "encoder_embed_dim": 32, **options}).double().eval()
    with torch.no_grad():  # likes to end a sentence now and then
        model.decoder.embed_tokens.weight[DICTIONARY.eos()] *= 2.3
    _, num_processes = running_processes()
    ensemble = StepwiseEnsemble([model]) if num_processes > 1 else [model]
    search = LexicallyConstrainedBeamSearch(DICTIONARY, "unordered") if is_constrained else None
    return SequenceGenerator(
        ensemble, DICTIONARY, beam_size=3, max_len_b=12, max_len_a=0, search_strategy=search
    )


def make_sample(indices) -> dict:
    """Those sentences, or one with no sentence at all."""
    net_input, _ = make_batch(LENGTHS)
    tokens = net_input["src_tokens"][list(indices)]
    return {"net_input": {"src_tokens": tokens, "src_lengths": tokens.ne(1).sum(1)}}


def prefixes_of(indices, num_tokens: int) -> torch.Tensor:
    """The beginnings of their targets without the end, as wide as the longest of them."""
    _, targets = make_batch(LENGTHS)
    targets = targets.masked_fill(targets == DICTIONARY.eos(), DICTIONARY.pad())
    prefixes = targets[list(indices), :num_tokens]
    return prefixes[:, : max(1, int(prefixes.ne(DICTIONARY.pad()).sum(1).max()))]


def words_of(index: int) -> list[int]:
    """What the translation of a sentence must hold: one token or two."""
    return [6 + index] if index % 2 else [6 + index, 20 + index]


def constraints_of(indices) -> torch.Tensor:
    return pack_constraints([[torch.tensor([w]) for w in words_of(i)] for i in indices])


def decode(options: dict, *, num_prefix_tokens: int = 0, is_constrained: bool = False) -> list:
    """Tokens and scores of this process's sentences, best first."""
    index, num_processes = running_processes()
    generator = make_generator(options, is_constrained=is_constrained)
    mine = range(len(LENGTHS)) if num_processes == 1 else SHARES[num_processes][index]
    rows = {}
    if num_prefix_tokens and mine:
        rows["prefix_tokens"] = prefixes_of(mine, num_prefix_tokens)
    if is_constrained and mine:
        rows["constraints"] = constraints_of(mine)
    if num_processes == 1:
        hypotheses = generator.generate(None, make_sample(mine), **rows)
    else:
        hypotheses = decode_everywhere(
            make_sample(mine),
            generator.model,
            pad_idx=DICTIONARY.pad(),
            generate=lambda sample, **rows: generator.generate(None, sample, **rows),
            **rows,
        )
    return [[(h["tokens"].tolist(), float(h["score"])) for h in hyps] for hyps in hypotheses]


def decode_twice(all_options: dict) -> dict:
    """Every variant twice: nothing may be left over from the first time."""
    return {name: (decode(options), decode(options)) for name, options in all_options.items()}


def decode_with_prefixes(num_tokens: int) -> list:
    return decode(VARIANTS["gshard"], num_prefix_tokens=num_tokens)


def decode_with_constraints() -> list:
    return decode(VARIANTS["gshard"], is_constrained=True)


def assert_same(found: list, wanted: list) -> None:
    assert len(found) == len(LENGTHS)
    for mine, theirs in zip(found, wanted, strict=True):
        assert [tokens for tokens, _ in mine] == [tokens for tokens, _ in theirs]
        for (_, score), (_, other) in zip(mine, theirs, strict=True):
            assert score == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("processes", [2, 4])
def test_hypotheses_do_not_depend_on_the_processes(processes):
    torch.manual_seed(0)
    expected = {name: decode(options) for name, options in VARIANTS.items()}
    results = run_processes(decode_twice, VARIANTS, processes=processes)
    for name, wanted in expected.items():
        lengths = {len(tokens) for hyps in wanted for tokens, _ in hyps}
        assert len(lengths) > 1  # or no process would have to wait for another
        for time in range(2):
            found = [hyps for of_process in results for hyps in of_process[name][time]]
            assert_same(found, wanted)


@pytest.mark.parametrize("processes", [2, 4])
def test_prefixes_stay_with_their_sentences(processes):
    wanted = decode_with_prefixes(3)
    for prefix, hypotheses in zip(prefixes_of(range(len(LENGTHS)), 3), wanted, strict=True):
        begin = prefix[prefix != DICTIONARY.pad()].tolist()
        assert all(tokens[: len(begin)] == begin for tokens, _ in hypotheses)
    results = run_processes(decode_with_prefixes, 3, processes=processes)
    assert_same([hyps for of_process in results for hyps in of_process], wanted)


def test_constraints_stay_with_their_sentences():
    wanted = decode_with_constraints()
    for index, hypotheses in enumerate(wanted):
        assert set(words_of(index)) <= set(hypotheses[0][0])
    results = run_processes(decode_with_constraints, processes=4)
    assert_same([hyps for of_process in results for hyps in of_process], wanted)
