"""How a command takes its options and how it ends: status, sentences, standard streams."""

import argparse
import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from user_dir.errors import UserError, did_you_mean, is_out_of_memory, reason_of


class CommandParser(argparse.ArgumentParser):
    """argparse's, which knows --debug, and for what it does not know the nearest that it does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_argument(
            "--debug",
            action="store_true",
            help="show the stack trace of an error beside its sentence",
        )

    def error(self, message: str) -> NoReturn:
        """argparse's words, and what may have been meant."""
        unknown = re.fullmatch(r"unrecognized arguments: (-\S*?)(=.*|\s.*)?", message, re.DOTALL)
        if unknown:
            known = [flag for action in self._actions for flag in action.option_strings]
            message += did_you_mean(unknown[1], known, otherwise="; --help lists the options")
        super().error(message)


def run_command(
    command: str,
    work: Callable[[], None],
    *,
    debug: bool = False,
    memory_cure: str = "use a machine with more",
) -> int:
    """Run the work; what a user can mend gives one sentence and status 2.

    That is a mistake, a failing disk, or too little memory, with what would do then.

    Args:
        debug: show the stack trace before the sentence.
    """
    # SIGTERM would end Python without cleaning up; as an exception it ends workers and removes
    # unfinished files.
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    _prepare_streams()
    try:
        work()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # as of `| head`: whoever reads has what they want
        return 128 + signal.SIGPIPE
    except (UserError, OSError) as error:
        if debug:
            traceback.print_exc()
        print(f"{command}: error: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(
            f"{command}: error: out of memory ({reason_of(error)}); {memory_cure}", file=sys.stderr
        )
        return 2
    except KeyboardInterrupt:
        print(f"{command}: interrupted; no file was left unfinished", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        _flush_or_discard()
        signal.signal(signal.SIGTERM, previous)
    return 0


def _prepare_streams() -> None:
    """See that nothing lands in a stream that was closed, or fails in one that is ASCII."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The next file to be opened would get its number, and what libraries print.
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  print would take None for stdout
    for stream in sys.stdout, sys.stderr:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flush_or_discard() -> None:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        # Python would try again at its end, and complain.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
