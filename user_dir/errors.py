"""What a user can mend: the message names the option or file, and says what would do."""

import difflib
import re
from collections.abc import Iterable

_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|bad_alloc")


class UserError(ValueError):
    """A wrong option, file or combination."""


class CorpusError(UserError):
    """Text, or a folder of it, that cannot be used as it is."""


class MisfitError(UserError):
    """A checkpoint that does not fit the model; whoever knows the file's name adds it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that the machine, or a GPU, had no memory left."""
    says_so = isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None
    return says_so or isinstance(error, MemoryError)


def reason_of(error: BaseException) -> str:
    """The first line of what it says; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def did_you_mean(name: str, *known: Iterable[str], cutoff: float = 0.6, otherwise: str = "") -> str:
    """The end of a sentence on a name that is unknown: the nearest one that is not.

    Args:
        known: names; the nearest is looked for among the first of these, then further on.
        cutoff: how alike they must be, 1: equal.
        otherwise: the end where nothing is near.
    """
    for names in known:
        near = difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)
        if near:
            return f"; did you mean {near[0]}?"
    return otherwise
