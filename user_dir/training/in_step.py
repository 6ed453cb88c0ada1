"""Beam search with the experts spread over processes, which take every step together.

Each process decodes the sentences of the ranks that it hosts. Sentences need different numbers
of steps, but an exchange between experts waits for all processes: before each forward pass they
agree on what comes next, and whoever has nothing to do in it sends zero tokens.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from fairseq.sequence_generator import EnsembleModel
from torch import Tensor, nn

from user_dir.fast_moe.layout.processes import agree_on_maximum
from user_dir.fast_moe.layout.topology import Topology

# What a process wants to do next; the largest wish of all comes first.
_FINISH, _DECODE, _ENCODE = range(3)


def is_spread(model) -> bool:
    """Whether the experts of a model are spread over several processes."""
    parts = getattr(model, "moe_parts", None)  # no other model of fairseq has any
    return parts is not None and parts.topology.num_processes > 1


class StepwiseEnsemble(EnsembleModel):
    """fairseq's ensemble, whose passes are taken by all processes together.

    Whoever has generated all its sentences must call `finish`, which returns when all have.
    """

    def __init__(self, models):
        super().__init__(models)
        self.topology: Topology = models[0].moe_parts.topology

    def forward_encoder(self, net_input):
        """Encode once it is this process's turn."""
        self._wait_for(_ENCODE)
        return super().forward_encoder(net_input)

    def forward_decoder(self, tokens, encoder_outs, incremental_states, temperature: float = 1.0):
        """Decode a step once it is this process's turn."""
        self._wait_for(_DECODE)
        return super().forward_decoder(tokens, encoder_outs, incremental_states, temperature)

    def finish(self) -> None:
        """Take part in the passes of the others until they are done as well. A collective."""
        self._wait_for(_FINISH)

    def _wait_for(self, wanted: int) -> None:
        device = next(self.single_model.parameters()).device
        while True:
            (turn,) = agree_on_maximum([wanted], device=device)
            if turn == wanted:
                return
            take_part = _encode_nothing if turn == _ENCODE else _decode_nothing
            for model in self.models:
                take_part(model, device)


def _encode_nothing(model, device: torch.device) -> None:
    eos = torch.tensor([[model.encoder.dictionary.eos()]], device=device)
    nobody = torch.tensor([-1], device=device)
    model.encoder(eos, torch.ones_like(nobody), sentence_ranks=nobody)


def _decode_nothing(model, device: torch.device) -> None:
    dtype = next(model.parameters()).dtype
    eos = torch.tensor([[model.decoder.dictionary.eos()]], device=device)
    width = model.encoder.embed_tokens.embedding_dim
    encoder_out = {
        "encoder_out": [torch.zeros(1, 1, width, dtype=dtype, device=device)],
        "encoder_padding_mask": [torch.zeros(1, 1, dtype=torch.bool, device=device)],
        "sentence_ranks": [torch.tensor([-1], device=device)],
        "moe_reports": [],
    }
    model.decoder(eos, encoder_out=encoder_out, incremental_state={})


class _Sentence(NamedTuple):
    """What travels of a sentence: rows without padding, on the CPU."""

    source: Tensor
    prefix: Tensor | None
    constraints: Tensor | None


def decode_everywhere(
    sample: dict,
    ensemble: StepwiseEnsemble,
    *,
    pad_idx: int,
    generate: Callable[..., list[list[dict]]],
    prefix_tokens: Tensor | None = None,
    constraints: Tensor | None = None,
) -> list[list[dict]]:
    """Decode each sentence on the process that hosts its rank. A collective.

    Args:
        sample: this process's sentences, maybe none; ``net_input`` as fairseq collates it.
        generate: decodes a batch here, with the ensemble: called with a sample, and with
            ``prefix_tokens`` and ``constraints`` by name.
        prefix_tokens, constraints: as fairseq's generator takes them, a row for each of this
            process's sentences, which travels with it; all processes give them, or none.

    Returns:
        the hypotheses of this process's own sentences, in order.
    """
    source_BS = sample["net_input"]["src_tokens"]
    mine = [
        _Sentence(
            row[row != pad_idx].cpu(),
            None if prefix_tokens is None else prefix_tokens[index].cpu(),
            None if constraints is None else constraints[index].cpu(),
        )
        for index, row in enumerate(source_BS)
    ]
    everyone = _gather_objects(mine)
    _check_alike([sentence for sentences in everyone for sentence in sentences])
    topology = ensemble.topology
    hosted = [
        (process, index, sentence)
        for process, sentences in enumerate(everyone)
        for index, sentence in enumerate(sentences)
        if int(sentence.source.sum()) % topology.num_ranks in topology.hosted_ranks
    ]
    hypotheses: list[list[dict]] = []
    if hosted:
        batch = [sentence for *_, sentence in hosted]
        hypotheses = generate(
            _sample([sentence.source for sentence in batch], source_BS.device, pad_idx),
            # fairseq takes padding of a prefix for "anything", and 0 for the end of constraints.
            prefix_tokens=_stack([one.prefix for one in batch], source_BS.device, fill=pad_idx),
            constraints=_stack([one.constraints for one in batch], source_BS.device, fill=0),
        )
    ensemble.finish()
    found = [
        (process, index, [_without_attention(one) for one in of_sentence])
        for (process, index, _), of_sentence in zip(hosted, hypotheses, strict=True)
    ]
    by_index = {
        index: of_sentence
        for part in _gather_objects(found)
        for process, index, of_sentence in part
        if process == topology.process_index
    }
    return [by_index[index] for index in range(len(mine))]


def _gather_objects(own) -> list:
    gathered = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, own)
    return gathered


def _check_alike(sentences: list[_Sentence]) -> None:
    """The same on all processes, so that none waits for one that has failed."""
    for name in ("prefix", "constraints"):
        if len({getattr(sentence, name) is None for sentence in sentences}) > 1:
            raise ValueError(f"some processes gave a {name} for their sentences, others did not")


def _sample(sources: list[Tensor], device: torch.device, pad_idx: int) -> dict:
    """Padded on the left, as fairseq's tasks do by default."""
    source_BS = _stack(sources, device, fill=pad_idx, left=True)
    lengths_B = torch.tensor([len(source) for source in sources], device=device)
    return {
        "id": torch.arange(len(sources)),
        "nsentences": len(sources),
        "net_input": {"src_tokens": source_BS, "src_lengths": lengths_B},
    }


def _stack(
    rows: Sequence[Tensor | None], device: torch.device, *, fill: int, left: bool = False
) -> Tensor | None:
    """Rows of any length as one tensor, filled up on one side; None where they are None."""
    given = [row for row in rows if row is not None]
    if not given:
        return None
    side = "left" if left else "right"
    return nn.utils.rnn.pad_sequence(
        given, batch_first=True, padding_value=fill, padding_side=side
    ).to(device)


def _without_attention(hypothesis: dict) -> dict:
    """What is worth sending home: attention is as large as source times target."""
    return {
        key: None if key == "attention" else value.cpu() if torch.is_tensor(value) else value
        for key, value in hypothesis.items()
    }
