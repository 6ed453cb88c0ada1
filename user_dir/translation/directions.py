"""The directions that a checkpoint translates in."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

from user_dir.errors import UserError
from user_dir.text.pairs import Pair

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Directions:
    """What a checkpoint was trained on, and which languages it takes where it is told none.

    Args:
        trained: its directions; a bilingual checkpoint has one and no other.
        languages: all that it knows, for any two of which a multilingual one has some translation.
    """

    trained: tuple[Pair, ...]
    languages: Collection[str]
    is_multilingual: bool
    source: str | None
    target: str | None

    def pick(self, source: str | None, target: str | None) -> Pair:
        """The direction that is meant; one that was not trained gives a warning.

        Raises:
            UserError: a language is missing or unknown; the message names the command's option.
        """
        languages = source or self.source, target or self.target
        if not self.is_multilingual and languages != self.trained[0].languages:
            asked = "-".join(map(str, languages))
            raise UserError(f"{asked}: the checkpoint translates {self.trained[0]} only")
        for flag, language in zip(("--source-lang", "--target-lang"), languages, strict=True):
            if language is None:
                trained = ",".join(map(str, self.trained))
                raise UserError(f"{flag} is needed for a checkpoint trained on {trained}")
            if language not in self.languages:
                known = ", ".join(sorted(self.languages))
                raise UserError(f"{flag} {language}: the checkpoint knows {known}")
        source, target = languages
        assert source is not None and target is not None
        picked = Pair(source, target)
        if picked not in self.trained:
            _warn_of_untrained(picked, self.trained)
        return picked


@cache  # once for each, however many lines are translated
def _warn_of_untrained(picked: Pair, trained: tuple[Pair, ...]) -> None:
    logger.warning(
        "the model was not trained on %s, only on %s: expect little of its translations",
        picked,
        ",".join(map(str, trained)),
    )
