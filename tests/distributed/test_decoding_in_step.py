"""Beam search with the experts spread over processes gives the hypotheses of one process."""

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator

from tests.support.models import DICTIONARY, SMALL, build_model, make_batch
from tests.support.ranks import run_processes
from user_dir.fast_moe.layout.processes import running_processes
from user_dir.translation.in_step import StepwiseEnsemble, decode_everywhere

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


def make_generator(options: dict):
    model = build_model(**{**SMALL, "encoder_embed_dim": 32, **options}).double().eval()
    with torch.no_grad():  # likes to end a sentence now and then
        model.decoder.embed_tokens.weight[DICTIONARY.eos()] *= 2.3
    _, num_processes = running_processes()
    ensemble = StepwiseEnsemble([model]) if num_processes > 1 else [model]
    return SequenceGenerator(ensemble, DICTIONARY, beam_size=3, max_len_b=12, max_len_a=0)


def make_sample(indices) -> dict:
    """Those sentences, or one with no sentence at all."""
    net_input, _ = make_batch(LENGTHS)
    tokens = net_input["src_tokens"][list(indices)]
    return {"net_input": {"src_tokens": tokens, "src_lengths": tokens.ne(1).sum(1)}}


def decode(options: dict) -> list:
    """Tokens and scores of this process's sentences, best first."""
    index, num_processes = running_processes()
    generator = make_generator(options)
    if num_processes == 1:
        hypotheses = generator.generate(None, make_sample(range(len(LENGTHS))))
    else:
        hypotheses = decode_everywhere(
            make_sample(SHARES[num_processes][index]),
            generator.model,
            pad_idx=DICTIONARY.pad(),
            generate=lambda sample: generator.generate(None, sample),
        )
    return [[(h["tokens"].tolist(), float(h["score"])) for h in hyps] for hyps in hypotheses]


def decode_twice(all_options: dict) -> dict:
    """Every variant twice: nothing may be left over from the first time."""
    return {name: (decode(options), decode(options)) for name, options in all_options.items()}


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
            assert len(found) == len(LENGTHS)
            for mine, theirs in zip(found, wanted, strict=True):
                assert [tokens for tokens, _ in mine] == [tokens for tokens, _ in theirs]
                for (_, score), (_, other) in zip(mine, theirs, strict=True):
                    assert score == pytest.approx(other, abs=1e-6)
