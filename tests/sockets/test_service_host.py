"""Readiness, passed sockets, sockets bound by ourselves, and the hardened process."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.watchdog import HANG_S
from token_relay.host.systemd import (
    bind_listener,
    harden_process,
    inherit_listener,
    listen_fds,
    notify,
    peer_of,
    watchdog_interval_s,
)
from token_relay.protocol.errors import ConfigError

# -- notify ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_abstract", [False, True])
def test_manager_is_told_one_state_per_line(place: Path, is_abstract: bool) -> None:
    address = f"@token-relay-test-{os.getpid()}" if is_abstract else str(place / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if is_abstract else address)
        assert notify(address, READY=1, STATUS="2 grants\nFDSTORE=1")
        assert manager.recv(4096) == b"READY=1\nSTATUS=2 grants FDSTORE=1"


@pytest.mark.parametrize("address", [None, "", "relative", "/nonexistent/notify", "/" + "a" * 200, "/a\0b"])
def test_no_manager_is_no_error(address: str | None) -> None:
    assert notify(address, READY=1) is False


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "42"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog_is_ours_only_when_meant_for_us(environment: dict[str, str], expected: float | None) -> None:
    assert watchdog_interval_s(environment, pid=42) == expected


# -- passed sockets ----------------------------------------------------------------------------------------


def test_sockets_for_another_process_are_not_ours() -> None:
    assert listen_fds({}, pid=42) == {}
    assert listen_fds({"LISTEN_FDS": "2", "LISTEN_PID": "43"}, pid=42) == {}
    assert listen_fds({"LISTEN_FDS": "0", "LISTEN_PID": "42", "LISTEN_FDNAMES": ""}, pid=42) == {}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LISTEN_FDS": "x"},
        {"LISTEN_FDS": "-1"},
        {"LISTEN_FDS": "17"},
        {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "token"},
        {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "token:token"},
        {"LISTEN_FDS": "2"},
    ],
)
def test_contradicting_variables_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        listen_fds({"LISTEN_PID": "42", **environment}, pid=42)


def test_passed_sockets_come_by_name_and_are_closed_on_exec(place: Path) -> None:
    # In a process of its own: the protocol is about descriptor numbers 3 and 4.
    code = f"""
import os, socket
for number, name in ((3, "control"), (4, "token")):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(f"{place}/{{name}}.sock")
    sock.listen()
    os.dup2(sock.fileno(), number, inheritable=True) if sock.fileno() != number else os.set_inheritable(number, True)
    sock.detach()
from token_relay.host.systemd import inherit_listener, listen_fds
environment = {{"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "control:token"}}
found = listen_fds(environment, pid=os.getpid())
listeners = [inherit_listener(fd) for fd in found.values()]
print(found, [os.get_inheritable(fd) for fd in found.values()], listeners[1].sock.getsockname()[-10:])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=HANG_S)
    assert done.stdout.strip() == "{'control': 3, 'token': 4} [False, False] token.sock"


def test_descriptor_that_is_no_listening_unix_socket_is_refused(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as idle, socket.socket(socket.AF_INET) as inet, open(place / "f", "w") as file:
        inet.bind(("127.0.0.1", 0))
        inet.listen()
        for fd in (idle.fileno(), inet.fileno(), file.fileno()):
            with pytest.raises(ConfigError, match=f"descriptor {fd} is not"):
                inherit_listener(fd)
            os.fstat(fd)  # still open: it was not ours to close


# -- our own sockets ---------------------------------------------------------------------------------------


def test_bound_socket_has_its_mode_and_goes_away(place: Path) -> None:
    path = place / "a.sock"
    listener = bind_listener(path, mode=0o660, gid=os.getegid())
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        accepted, _ = listener.sock.accept()
        with accepted:
            peer = peer_of(accepted)
    assert (peer.uid, peer.gid, peer.pid) == (os.geteuid(), os.getegid(), os.getpid())
    listener.close()
    assert not path.exists()


def test_closing_does_not_remove_what_somebody_else_put_there(place: Path) -> None:
    path = place / "a.sock"
    listener = bind_listener(path, mode=0o600)
    path.rename(place / "kept")  # keeps the inode in use, so that the new file cannot get the same number
    path.touch()
    listener.close()
    assert path.exists()


def test_live_socket_is_never_taken_away(place: Path) -> None:
    first = bind_listener(place / "a.sock", mode=0o600)
    with pytest.raises(ConfigError, match="already running"):
        bind_listener(place / "a.sock", mode=0o600)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(place / "a.sock"))
    first.close()


def test_full_queue_counts_as_live(place: Path) -> None:
    path = place / "a.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        busy.bind(str(path))
        busy.listen(0)
        client.connect(str(path))
        with pytest.raises(ConfigError, match="already running"):
            bind_listener(path, mode=0o600)


def test_two_that_start_together_cannot_remove_each_others_socket(place: Path) -> None:
    with open(place / ".a.sock.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="just starting"):
            bind_listener(place / "a.sock", mode=0o600)
    bind_listener(place / "a.sock", mode=0o600).close()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_not_a_socket_is_not_removed(place: Path, kind: str) -> None:
    path = place / "a.sock"
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case _:
            path.symlink_to(place / "elsewhere")
    with pytest.raises(ConfigError, match="not a socket"):
        bind_listener(path, mode=0o600)
    assert path.is_symlink() or path.exists()


def test_place_that_cannot_be_bound_is_a_clear_error(place: Path) -> None:
    with pytest.raises(ConfigError, match="cannot listen at"):
        bind_listener(place / "absent" / "a.sock", mode=0o600)
    with pytest.raises(ConfigError, match="limit is 107"):
        bind_listener(place / ("a" * 107), mode=0o600)


# -- hardening ---------------------------------------------------------------------------------------------


def test_hardened_process_leaves_no_core_and_is_not_dumpable() -> None:
    code = """
import ctypes, resource
from token_relay.host.systemd import harden_process
print(harden_process(), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=HANG_S)
    assert done.stdout.strip() == "() 0 (0, 0)"


def test_memory_is_locked_where_the_limit_allows_all_of_it_and_does_not_grow_by_it() -> None:
    code = """
import mmap, re, resource
from pathlib import Path
from token_relay.host.systemd import harden_process
if {is_unlimited}:
    resource.getrlimit = lambda _: (resource.RLIM_INFINITY,) * 2
def kb(key): return int(re.search(key + r":\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
before = kb("VmRSS")
failed = harden_process()
untouched = mmap.mmap(-1, 256 << 20)  # as a thread's stack is, nearly all of it
print("MCL_ONFAULT" in failed, kb("VmLck") > 0, kb("VmRSS") < before * 1.2)
"""

    def harden(*, is_unlimited: bool) -> list[str]:
        words = [sys.executable, "-c", code.replace("{is_unlimited}", str(is_unlimited))]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=HANG_S).stdout.split()

    failed, is_locked, is_small = harden(is_unlimited=True)
    assert (failed, is_locked) in (("False", "True"), ("True", "False"))  # not every user may: then it is told
    assert is_small == "True"
    if os.geteuid() != 0 or resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY:
        assert harden(is_unlimited=False) == ["False", "False", "True"]


def test_hardening_that_fails_is_reported_and_not_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("refused")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    monkeypatch.setattr("token_relay.host.systemd.ctypes.CDLL", refuse)
    assert harden_process() == ("PR_SET_DUMPABLE", "RLIMIT_CORE")
