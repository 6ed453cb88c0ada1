"""How a command ends: its exit status, its error and warning sentences."""

import signal
import sys
from collections.abc import Callable

from user_dir.errors import CorpusError, UserError


def run_command(command: str, work: Callable[[], None]) -> int:
    """Run the work; a user's mistake or a failing disk gives one sentence and status 2."""
    # SIGTERM would end Python without cleaning up; as an exception it ends workers and removes
    # unfinished files.
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        work()
    except (UserError, CorpusError, OSError) as error:
        print(f"{command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{command}: interrupted; nothing was written", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0
