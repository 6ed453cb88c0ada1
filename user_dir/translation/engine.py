"""Translating batches of lines in pieces, with fairseq's beam search."""

import logging
import math
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from fairseq import utils
from fairseq.checkpoint_utils import load_model_ensemble_and_task

from user_dir import register  # noqa: F401 - what checkpoints name is known
from user_dir.checkpoints.model_state import fairseq_state
from user_dir.errors import MisfitError, UserError, is_out_of_memory, reason_of
from user_dir.text.leftovers import name_without
from user_dir.text.pairs import Pair
from user_dir.training.in_step import is_spread
from user_dir.translation.decoding import Batch, Decoding, Hypothesis, Translation


class Engine:
    """The models of an ensemble and the search, on one device.

    Args:
        device_index: which GPU, where there are GPUs to use.

    Raises:
        UserError: the checkpoints do not fit their options, their dictionaries or each other.
    """

    def __init__(self, decoding: Decoding, *, device_index: int = 0):
        self.device = _device(decoding, device_index)
        self.models, self.task = load_models(decoding)
        if decoding.spread_experts:
            _check_spread(self.models, self.task)
        self.search = Namespace(
            beam=decoding.beam,
            lenpen=decoding.lenpen,
            max_len_a=decoding.max_len_a,
            max_len_b=decoding.max_len_b,
        )
        for model in self.models:
            model.to(device=self.device, dtype=getattr(torch, decoding.dtype))
            model.prepare_for_inference_(Namespace(generation=self.search))
        self.generator = self.task.build_generator(self.models, self.search)
        languages = [str(decoding.overrides[f"{side}_lang"]) for side in ("source", "target")]
        self.direction = Pair(*languages)
        self.max_source_positions, _ = utils.resolve_max_positions(
            self.task.max_positions(), *[model.max_positions() for model in self.models]
        )

    def translate(self, batch: Batch) -> list[Translation]:
        """Translate the lines of one batch; texts are left in pieces.

        Raises:
            UserError: no translation came out, or memory ran out.
        """
        try:
            return self._translate(batch)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"out of memory ({reason_of(error)}) with {len(batch.lines)} lines at once; try a "
                "smaller --max-tokens or --batch-size, or fewer --processes"
            ) from None

    def _translate(self, batch: Batch) -> list[Translation]:
        lines = batch.lines
        self._set_direction(batch.direction)
        tokens, was_truncated = self._encode(lines)
        dataset = self.task.build_dataset_for_inference(tokens, [len(t) for t in tokens])
        sample = dataset.collater([dataset[index] for index in range(len(tokens))])
        if self.device.type == "cuda":
            sample = utils.move_to_cuda(sample, self.device)
        hypotheses = self.task.inference_step(self.generator, self.models, sample)
        by_index = dict(zip(sample["id"].tolist(), hypotheses, strict=True))
        return [
            Translation(self._read(by_index[index][: batch.nbest], line), was_truncated[index])
            for index, line in enumerate(lines)
        ]

    def take_part(self, direction: Pair | None) -> None:
        """Take part in the translation of a batch that another process has (spread experts)."""
        self._set_direction(direction)
        nothing = torch.empty(0, 1, dtype=torch.int64, device=self.device)
        sample = {
            "id": nothing[:, 0],
            "net_input": {"src_tokens": nothing, "src_lengths": nothing[:, 0]},
        }
        self.task.inference_step(self.generator, self.models, sample)

    def _set_direction(self, direction: Pair | None) -> None:
        """Let the multilingual task translate in another direction from now on."""
        if direction is None or direction == self.direction:
            return
        task = self.task
        # One encoder and one decoder serve all languages, so each has one dictionary.
        source_dictionary, target_dictionary = task.source_dictionary, task.target_dictionary
        task.args.source_lang, task.args.target_lang = direction.languages
        task.source_langs, task.target_langs = [direction.source], [direction.target]
        task.data_manager.dicts.setdefault(direction.source, source_dictionary)
        task.data_manager.dicts.setdefault(direction.target, target_dictionary)
        # The target language's token is among what it strips from the output.
        self.generator = task.build_generator(self.models, self.search)
        self.direction = direction

    def _encode(self, lines: Sequence[str]) -> tuple[list[torch.Tensor], list[bool]]:
        """Token ids with an end of sentence; those of too long lines are cut before it."""
        tokens, _ = self.task.get_interactive_tokens_and_lengths(lines, lambda line: line)
        # The task may add tokens of its own, such as the target language.
        (first, *_), dataset = tokens, self.task.build_dataset_for_inference
        added = len(dataset([first], [len(first)])[0]["source"]) - len(first)
        limit = self.max_source_positions - added
        was_truncated = [len(ids) > limit for ids in tokens]
        return [
            torch.cat([ids[: limit - 1], ids[-1:]]) if is_long else ids
            for ids, is_long in zip(tokens, was_truncated, strict=True)
        ], was_truncated

    def _read(self, found: list[dict], line: str) -> tuple[Hypothesis, ...]:
        if not found:
            raise UserError(
                f'no translation came out for "{line[:60]}": the model\'s scores are no numbers; '
                "try another checkpoint (--path), or float32 instead of --fp16"
            )
        return tuple(self._hypothesis(one) for one in found)

    def _hypothesis(self, found: dict) -> Hypothesis:
        pieces = self.task.target_dictionary.string(
            found["tokens"].int().cpu(),
            extra_symbols_to_ignore=self.generator.symbols_to_strip_from_output,
        )
        return Hypothesis(pieces, pieces, float(found["score"]) / math.log(2))


@contextmanager
def _only_warnings() -> Iterator[None]:
    """Meanwhile fairseq and this package do not tell what they load; a program may log later."""
    loggers = [logging.getLogger(name) for name in ("fairseq", "user_dir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def load_models(decoding: Decoding) -> tuple[list, Any]:
    """The models of an ensemble, in float32 on the CPU, and their task.

    Raises:
        UserError: the checkpoints do not fit their options, their dictionaries or each other.
    """
    paths = ":".join(decoding.paths)
    models: list = []
    task = None
    try:
        # fairseq would split the name of a folder at its colons.
        with _only_warnings(), name_without(":", decoding.data) as data:
            for path in decoding.paths:
                state = fairseq_state(path, {**decoding.overrides, "data": data})
                (model,), _, task = load_model_ensemble_and_task([path], task=task, state=state)
                models.append(model)
    except (RuntimeError, MisfitError) as error:  # of load_state_dict, or our sentence on it
        reason = " ".join(" ".join(str(error).splitlines()[:3]).split())
        raise UserError(
            f"--path ({paths}) does not fit its options or the dictionaries in --data "
            f"({decoding.data}): {reason}"
        ) from None
    except (UserError, OSError):
        raise
    except Exception as error:
        # fairseq takes the values as they are, and fails wherever it first uses them.
        raise UserError(
            f"--path ({paths}): no model can be built from its options, --model-overrides included "
            f"({type(error).__name__}: {error})"
        ) from None
    return models, task


def _check_spread(models: list, task: Any) -> None:
    if not all(map(is_spread, models)):
        raise UserError(
            "--spread-experts: the checkpoint has no experts to spread; leave the option out, and "
            "--processes share the lines"
        )
    if not type(task).__module__.startswith("user_dir."):
        raise UserError(
            "--spread-experts needs a task whose processes take every step together; add "
            "--model-overrides \"{'task': 'scomoe_translation'}\" (or "
            "'scomoe_multilingual_translation')"
        )


def _device(decoding: Decoding, index: int) -> torch.device:
    if decoding.on_cpu:
        return torch.device("cpu")
    device = torch.device("cuda", index % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device
