"""A command waits for an agent, or a sandbox, that is starting, and for nothing else.

The wait itself is tried with a clock of its own. Then real programs, stopped at known places of their start: at the
first instruction of the interpreter, and in the middle, where a module that the agent imports waits for the test.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.channel.mosquitto import free_port
from tests.watchdog import HANG_S
from token_relay.cli import starting
from token_relay.cli.client import ClientError, locate

# Imported at the start of the interpreter. The agent's own module then waits for whoever writes to the FIFO.
SLOWED = """\
import importlib.abc, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "token_relay.service.companion":
            open("GATE").read()

sys.meta_path.insert(0, Finder())
"""
STARTING = "the companion agent is starting ...\n"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.pauses = 0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses += 1
        self.now += seconds


@pytest.mark.parametrize(
    ("absent", "starts", "late", "said"),
    [
        ([False], [], False, 0),  # it is there
        ([True], [False], False, 0),  # nothing is starting: no wait
        ([True, False], [True], False, 0),  # it was just about to listen
        ([True, True, False], [True, True], False, 1),
        ([True, True, True], [True, True, False], False, 1),  # it has ended
        ([True] * 400, [True] * 400, True, 1),  # never
    ],
)
def test_a_wait_ends_with_what_it_is_for_with_its_absence_or_after_ten_seconds(
    absent: list[bool], starts: list[bool], late: bool, said: int
) -> None:
    clock, told = Clock(), list[str]()
    looks, signs = iter(absent), iter(starts)
    is_late = starting.wait(
        lambda: next(looks), lambda: next(signs), lambda: told.append("once"), monotonic=clock, sleep=clock.sleep
    )
    assert (is_late, len(told)) == (late, said)
    assert clock.now < starting.WAIT_S_MAX + 2 * starting.POLL_S
    assert clock.pauses <= starting.WAIT_S_MAX / starting.POLL_S + 1


# -- Real programs -----------------------------------------------------------------------------------------


def environment(place: Path, **more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(place), **more}


@contextlib.contextmanager
def program(place: Path, *words: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``token-relay``; it is over at the end."""
    with subprocess.Popen(
        [sys.executable, "-m", "token_relay.cli", *words],
        env=environment(place, **more),
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline()


@pytest.fixture
def companion_home(short_path: Path) -> Path:
    home = short_path / "home"
    line = ("companion", "init", "--broker", "mqtt://127.0.0.1:9", "--home", str(home))
    with program(short_path, *line) as made:
        assert made.communicate(timeout=HANG_S)[1] and made.returncode == 0
    return home


@pytest.mark.parametrize("how", ["--home", "--home=", "relative", "TOKEN_RELAY_HOME", "XDG_STATE_HOME", "--socket"])
def test_a_command_waits_for_an_agent_whose_interpreter_has_only_begun(companion_home: Path, how: str) -> None:
    place = companion_home.parent
    given: tuple[str, ...] = ()
    more: dict[str, str] = {}
    asked = ("--home", str(companion_home))
    match how:
        case "--home":
            given = asked
        case "--home=":
            given = (f"--home={companion_home}",)
        case "relative":
            given = ("--home", companion_home.name)
        case "TOKEN_RELAY_HOME":
            more = {how: str(companion_home)}
        case "XDG_STATE_HOME":
            companion_home = companion_home.rename(place / "companion")
            (place / "token-relay").symlink_to(place)
            more = {how: str(place)}
            asked = ("--home", str(companion_home))
        case "--socket":
            (place / "sockets").mkdir()
            given = (*asked, "--socket", "sockets")
            asked = ("--socket", str(place / "sockets"))
    with program(place, "companion", "run", *given, **more) as agent:
        agent.send_signal(signal.SIGSTOP)  # Popen returns at the exec: no line of Python has run
        with program(place, "companion", "status", "--json", *asked) as command:
            assert first_line(command) == STARTING
            agent.send_signal(signal.SIGCONT)
            out, err = command.communicate(timeout=HANG_S)
    assert (command.returncode, err) == (0, ""), err
    assert '"device_id"' in out


@pytest.fixture
def slowed(short_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """The gate in the middle of an agent's start, and the environment of an agent that stops there."""
    gate = short_path / "gate"
    os.mkfifo(gate)
    (short_path / "sitecustomize.py").write_text(SLOWED.replace("GATE", str(gate)))
    yield gate, {"PYTHONPATH": os.pathsep.join([str(short_path), *sys.path])}


def opened(gate: Path) -> int:
    """Wait until the agent reads at the gate, and hold it there: open(2) of a FIFO."""
    return os.open(gate, os.O_WRONLY)


@pytest.mark.parametrize(("name", "code"), [("status", 0), ("token", 1)])
def test_a_command_waits_for_an_agent_that_has_hidden_itself_and_does_not_listen_yet(
    companion_home: Path, slowed: tuple[Path, dict[str, str]], name: str, code: int
) -> None:
    gate, more = slowed
    asked = ("--home", str(companion_home))
    with program(companion_home.parent, "companion", "run", *asked, **more):
        held = opened(gate)
        with program(companion_home.parent, "companion", name, *asked) as command:
            assert first_line(command) == STARTING
            os.close(held)
            _out, err = command.communicate(timeout=HANG_S)
    assert command.returncode == code, err
    assert ("no grant here" in err) == (name == "token"), "its own answer"
    assert "starting" not in err, "said once"


def test_an_agent_that_ends_while_it_starts_is_not_waited_for(
    companion_home: Path, slowed: tuple[Path, dict[str, str]]
) -> None:
    gate, more = slowed
    with program(companion_home.parent, "companion", "run", "--home", str(companion_home), **more) as agent:
        held = opened(gate)
        with program(companion_home.parent, "companion", "status", "--home", str(companion_home)) as command:
            assert first_line(command) == STARTING
            agent.kill()
            _out, err = command.communicate(timeout=HANG_S)
        os.close(held)
    assert command.returncode == 3
    assert f"not running (looked in {companion_home})" in err


def test_nothing_is_waited_for_where_nothing_starts(companion_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_seconds: float) -> None:
        raise AssertionError("it waits")

    monkeypatch.setattr("time.sleep", fail)
    other = companion_home.with_name("other")
    other.mkdir()
    with program(companion_home.parent, "companion", "run", "--home", str(other)) as elsewhere:
        elsewhere.send_signal(signal.SIGSTOP)
        assert starting.agent("companion", other)
        assert not starting.agent("phone", other)
        assert not starting.agent("companion", companion_home)
        with pytest.raises(ClientError, match="is not running") as caught:
            locate("companion", {}, home=companion_home)
    assert caught.value.exit_code == 3


def test_an_agent_that_never_listens_is_said_to_be_starting_still(
    companion_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "WAIT_S_MAX", 0.0)
    held = os.open(companion_home, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ClientError, match=r"is starting, and does not listen after 0 s") as caught:
            locate("companion", {}, home=companion_home)
    finally:
        os.close(held)
    assert (caught.value.code, caught.value.exit_code) == ("not_running", 3)
    assert "token-relay companion doctor" in caught.value.hint


def test_clients_that_look_at_the_mark_do_not_keep_an_agent_from_it(short_path: Path) -> None:
    assert not starting.agent("phone", short_path)
    with starting.marked(short_path):
        assert starting.agent("phone", short_path)
    assert not starting.agent("phone", short_path)
    assert not starting.agent("phone", short_path / "nowhere")
    with starting.marked(short_path / "nowhere"):
        pass  # the agent itself says what is missing


def test_commands_wait_for_a_sandbox_that_is_starting(short_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    phone = ("--provider", url, "--profile", "entra", "--tenant", "contoso", "--client-id", "id")
    init = ("phone", "init", *phone, "--broker", "mqtt://127.0.0.1:9", "--home", str(short_path / "phone"))
    with program(short_path, "sandbox", "--http-port", str(port), "--mqtt-port", "0") as sandbox:
        sandbox.send_signal(signal.SIGSTOP)
        with (
            program(short_path, "sandbox", "ctl", "clock", "--json", "--url", url) as control,
            program(short_path, *init) as made,
        ):
            assert first_line(control) == first_line(made) == "the sandbox is starting ...\n"
            sandbox.send_signal(signal.SIGCONT)
            out, err = control.communicate(timeout=HANG_S)
            assert (control.returncode, err) == (0, ""), err
            assert '"now"' in out
            _out, err = made.communicate(timeout=HANG_S)
            assert made.returncode == 0
            assert "offers no revocation" in err, "the provider was not looked at"


def test_a_control_command_without_any_sandbox_is_answered_at_once(short_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with program(short_path, "sandbox", "ctl", "clock", "--url", url) as control:
        _out, err = control.communicate(timeout=HANG_S)
    assert control.returncode == 3
    assert err.startswith(f"token-relay: no sandbox answers at {url}: Connection refused"), err
