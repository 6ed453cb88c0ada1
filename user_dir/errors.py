"""What a user can mend: the message names the option or file, and says what would do."""

import re

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
