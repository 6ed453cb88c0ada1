"""The library: models that are loaded once and translate lines of text in any direction."""

from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count, islice
from os import PathLike, fspath
from typing import Any, Literal, Self

from user_dir.errors import UserError
from user_dir.text.lines import clean_line
from user_dir.text.pairs import Pair
from user_dir.translation.decoding import Batch, Translation
from user_dir.translation.document import Document
from user_dir.translation.setup import Setup
from user_dir.translation.team import make_team

# Enough lines for batches of similar lengths; on a GPU a matter of seconds.
DEFAULT_BUFFER = 2000


class Translator:
    """A model, or several that decode as an ensemble, with what cuts text into their pieces.

    `load` makes one. It is a context manager, whose end ends the processes that it has started.
    """

    def __init__(self, setup: Setup):
        self.setup = setup
        self._team = make_team(setup.decoding, processes=setup.limits.processes)

    @classmethod
    def from_options(cls, args: Namespace) -> "Translator":
        """What the options of `scomoe-translate` mean; the models are loaded when they are used.

        Raises:
            UserError: something is missing or contradicts; the message names the option.
        """
        # Here, not at the top: --help and mistakes in the options need no torch.
        from user_dir.translation.loading import load_setup

        return cls(load_setup(args))

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        source: str | None = None,
        target: str | None = None,
        data: str | PathLike[str] | None = None,
        lang_dict: str | PathLike[str] | None = None,
        sentencepiece_model: str | PathLike[str] | None = None,
        pre_tokenized: bool = False,
        model_overrides: Mapping[str, Any] | None = None,
        trust_checkpoint: bool = False,
        beam: int = 5,
        lenpen: float = 1.0,
        max_len_a: float = 0.0,
        max_len_b: int = 200,
        precision: Literal["float32", "float16", "bfloat16"] = "float32",
        cpu: bool = False,
        max_tokens: int = 4096,
        batch_size: int | None = None,
        processes: int = 1,
        spread_experts: bool = False,
    ) -> "Translator":
        """Load a checkpoint (several, with colons between, as an ensemble).

        Args:
            source, target: what `translate` takes where it is told none; of use for a multilingual
                checkpoint only.
            precision: as --fp16 and --bf16 say for the command.

        The others are the options of `scomoe-translate`, which docs/translating.md describes.

        Raises:
            UserError: the checkpoint, or what belongs to it, is missing or does not fit; the
                message names the command's option.
        """
        options = Namespace(
            path=fspath(path),
            source_lang=source,
            target_lang=target,
            data=None if data is None else fspath(data),
            lang_dict=None if lang_dict is None else fspath(lang_dict),
            sentencepiece_model=sentencepiece_model,
            pre_tokenized=pre_tokenized,
            model_overrides=dict(model_overrides or {}),
            trust_checkpoint=trust_checkpoint,
            beam=beam,
            lenpen=lenpen,
            max_len_a=max_len_a,
            max_len_b=max_len_b,
            fp16=precision == "float16",
            bf16=precision == "bfloat16",
            cpu=cpu,
            max_tokens=max_tokens,
            batch_size=batch_size,
            processes=processes,
            spread_experts=spread_experts,
        )
        translator = cls.from_options(options)
        translator._team.start()
        return translator

    def translate(
        self, lines: Iterable[str], *, source: str | None = None, target: str | None = None
    ) -> list[str]:
        """Translate lines of text: one string for each, in order; an empty line stays empty.

        Args:
            source, target: the languages, needed for a multilingual checkpoint: any that it knows.

        Raises:
            UserError: a language is missing or unknown, or a worker process was ended.
        """
        return [one.text for one in self.stream(lines, source=source, target=target)]

    def stream(
        self,
        lines: Iterable[str],
        *,
        source: str | None = None,
        target: str | None = None,
        nbest: int = 1,
        buffer: int = DEFAULT_BUFFER,
    ) -> Iterator[Translation]:
        """Yield a translation for each line, with scores, in order and as soon as it is done.

        Args:
            source, target: as of `translate`.
            nbest: how many hypotheses for each line, at most the beam.
            buffer: so many lines are read before the first of them is translated; sentences of
                similar lengths among them are translated together. Memory grows with nothing else.

        Raises:
            UserError: as `translate`; also `nbest` above the beam.
        """
        if isinstance(lines, str):
            raise UserError("lines must be a list of lines, or anything that yields them, not one")
        beam = self.setup.decoding.beam
        if not 1 <= nbest <= beam:
            raise UserError(f"--nbest ({nbest}) must be from 1 to --beam ({beam})")
        direction = self.setup.directions.pick(source, target)
        return self._stream(iter(lines), direction, nbest=nbest, buffer=buffer)

    def _stream(
        self, lines: Iterator[str], direction: Pair, *, nbest: int, buffer: int
    ) -> Iterator[Translation]:
        while part := [clean_line(line) for line in islice(lines, buffer)]:
            pieces = self.setup.segmentation.encode(part) if self.setup.segmentation else part
            document = Document(pieces, direction=direction, nbest=nbest)
            yield from document.take_ready()
            for _ in self.translate_documents([document]):
                yield from document.take_ready()
            document.check_complete()

    def translate_documents(
        self, documents: Iterable[Document]
    ) -> Iterator[tuple[Document, list[Translation]]]:
        """Put translations into documents, whose batches come back in any order.

        Documents are drawn when somebody is free to translate them.

        Yields:
            (a document, what it got just now).
        """
        sent: dict[int, tuple[Document, list[int]]] = {}

        def batches() -> Iterator[Batch]:
            numbers = count()
            for document in documents:
                for indices, batch in document.batches(self.setup.limits):
                    number = next(numbers)
                    sent[number] = document, indices
                    yield batch

        for number, found in self._team.translate(batches()):
            document, indices = sent.pop(number)
            translations = [self._joined(one) for one in found]
            document.put(indices, translations)
            yield document, translations

    def close(self) -> None:
        """End the processes that were started; what is translated later starts them anew."""
        self._team.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _joined(self, found: Translation) -> Translation:
        join = self.setup.segmentation.decode if self.setup.segmentation else str
        hypotheses = tuple(
            replace(one, text=clean_line(join(one.pieces))) for one in found.hypotheses
        )
        return replace(found, hypotheses=hypotheses)
