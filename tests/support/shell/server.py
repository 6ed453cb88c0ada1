"""Forks a process for each command that a client asks for; what they all need is imported before.

    python -m tests.support.shell.server SOCKET MODULE…

A fork takes milliseconds, where fairseq takes seconds to import.
"""

import importlib
import json
import os
import socket
import sys
import traceback
from contextlib import suppress

from tests.support.shell.parsing import parse_only
from tests.support.shell.performing import perform


def serve(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(16)
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                answer(connection)
            connection.close()
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG) != (0, 0):
                    pass


def answer(connection: socket.socket) -> None:
    """Be the command, in the client's folder and with its streams; does not return."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    data = b""
    while part := connection.recv(1 << 16):
        data += part
    request = json.loads(data)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = [f"/usr/local/bin/{request['name']}", *request["arguments"]]
    do = parse_only if "SHELL_PARSES" in os.environ else perform
    try:
        status = do(request["name"], request["arguments"])
    except SystemExit as end:
        status = end.code
    except BaseException:  # even Ctrl-C: the server's loop is not to go on in here
        traceback.print_exc()
        status = 1
    if isinstance(status, str):  # sys.exit's sentence
        print(status, file=sys.stderr)
        status = 1
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    connection.sendall(str(status or 0).encode())
    os._exit(0)


if __name__ == "__main__":
    for name in sys.argv[2:]:
        importlib.import_module(name)
    serve(sys.argv[1])
