"""Starts ``token-relay`` without starting Python: one process has everything imported, and each program is its fork.

An end-to-end test starts five programs and more, and each spends most of its start on imports. A fork has them
already; everything else is as after an exec: its own process id, working directory, environment, standard streams,
signal dispositions and command line (its words are written over the server's in memory, where ``/proc/PID/cmdline``
reads them), and it ends as a script does, with threads, ``atexit`` and garbage. Two things differ: in
``/proc/PID/environ`` stands the server's environment, and memory is shared with the server.

As a module this is the server. It answers on the socket whose number it is given: a request is one packet of JSON with
three descriptors, answered by the process id, and later by how it ended. At the socket's end it kills what still runs.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

REQUEST_BYTES_MAX = 65_536
STREAMS = 3
ROOM_BYTES = 8192  # for the command line of a fork: what the server's own takes, by an argument of padding
FORBIDDEN = ("simulation", "demo", "__main__")  # of no agent, and of no sandbox
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def preload() -> None:
    """Import what any program may import, in the order in which an agent would begin."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    importlib.import_module("token_relay.cli.structlog_without_rich")  # first: structlog must not find rich
    halves = importlib.import_module("token_relay")  # a namespace of two folders
    for found in pkgutil.walk_packages(halves.__path__, f"{halves.__name__}.", onerror=lambda _: None):
        if not set(found.name.split(".")) & set(FORBIDDEN):
            try:
                importlib.import_module(found.name)
            except ImportError:  # an extra that is not installed
                continue
    assert "token_relay.service.runtime" in sys.modules, "nothing was found to import"


def show_as(words: list[str]) -> None:
    """Write a command line over this process's own. proc(5): arg_start and arg_end are fields 48 and 49 of stat."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    line = b"\0".join(os.fsencode(word) for word in words) + b"\0"
    assert len(line) <= end - start, "a longer command line than the server has room for"
    ctypes.memmove(start, line.ljust(end - start, b"\0"), end - start)


def serve(control: socket.socket) -> list[str] | None:
    """Fork for each request; returns the words in a fork, and None in the server when its socket has ended."""
    running: dict[int, int] = {}
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: it means the tests, and they end us
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == wake_read:
                    os.read(wake_read, 4096)
                    _reap(control, running)
                    continue
                packet, streams, _, _ = socket.recv_fds(control, REQUEST_BYTES_MAX, STREAMS)
                if not packet:
                    for pid in running:
                        os.kill(pid, signal.SIGKILL)
                    return None
                request = json.loads(packet)
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    for fd in (wake_read, wake_write):
                        os.close(fd)
                    words = become(request, streams)
                    _send(control, {"number": request["number"], "pid": os.getpid()})  # it is what it was asked to be
                    control.close()
                    return words
                running[pid] = request["number"]
                for fd in streams:
                    os.close(fd)


def _reap(control: socket.socket, running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        _send(control, {"number": running.pop(pid), "code": os.waitstatus_to_exitcode(status)})


def _send(control: socket.socket, answer: dict[str, int]) -> None:
    try:
        control.send(json.dumps(answer).encode())
    except BrokenPipeError:  # the next thing that is read is its end
        pass


def become(request: dict[str, Any], streams: list[int]) -> list[str]:
    """Turn this fork into the program that was asked for; returns its words."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for target, fd in enumerate(streams):
        os.dup2(fd, target)
    for fd in streams:
        if fd >= STREAMS:
            os.close(fd)
    # The objects of before remember what kind of file theirs was.
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # open as long as the program
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1 if os.isatty(1) else -1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = list(request["argv"])
    show_as([sys.executable, *sys.argv])
    gc.enable()
    return sys.argv[1:]


def main() -> int:
    """Serve; and in each fork, be the command line."""
    control = socket.socket(fileno=int(sys.argv[1]))
    preload()
    importlib.import_module("tests.refusals").record()
    gc.disable()
    gc.freeze()  # what is loaded is never garbage; a fork that checked it would copy its pages
    control.send(b"{}")
    words = serve(control)
    control.close()
    if words is None:
        return 0
    from token_relay.cli.main import main as command

    return command(words)


def end(code: int) -> NoReturn:
    """End as the interpreter does, but for taking every module apart: that is most of a fork's life otherwise."""
    threading._shutdown()  # type: ignore[attr-defined]  # what the interpreter does first at its end; private
    atexit._run_exitfuncs()
    gc.collect()  # what was forgotten open says so now
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    end(main())
