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


@pytest.mark.parametrize(
    ("signs", "is_starting"),
    [
        (["nothing", "nothing", "nothing"], False),
        (["mark"], True),
        (["nothing", "process"], True),
        (["nothing", "nothing", "mark"], True),  # it hid itself between the two looks, and has the mark by then
    ],
)
def test_an_agent_that_hides_itself_while_it_is_looked_for_is_seen(
    signs: list[str], is_starting: bool, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter(signs)
    monkeypatch.setattr(starting, "_is_marked", lambda directory: next(looks) == "mark")
    monkeypatch.setattr(starting, "_has_young_process", lambda kind, directory: next(looks) == "process")
    assert starting.agent("companion", short_path) is is_starting
    assert list(looks) == [], "in this order, and no look more than it takes"


def test_two_clients_that_look_at_the_mark_do_not_take_each_other_for_an_agent(short_path: Path) -> None:
    looking = os.open(short_path, os.O_RDONLY)
    try:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not starting.agent("companion", short_path)
        fcntl.flock(looking, fcntl.LOCK_EX)
        assert starting.agent("companion", short_path)
    finally:
        os.close(looking)


def test_an_agent_takes_the_mark_as_soon_as_a_client_has_looked(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = os.open(short_path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr("token_relay.cli.starting.time.sleep", lambda seconds: fcntl.flock(looking, fcntl.LOCK_UN))
    with starting.marked(short_path):
        assert starting.agent("companion", short_path)
    os.close(looking)
    assert not starting.agent("companion", short_path)


@contextlib.contextmanager
def process_called(place: Path, *command: str) -> Iterator[None]:
    """A process that waits and has this command line."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=place, env=environment(place)
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"\n"
            yield
        finally:
            process.kill()


PYTHON = (sys.executable, "-c", "print(flush=True), input()", "token_relay.cli")
SHELL = ("/bin/sh", "-c", "echo; read line", "token_relay.cli")  # as timeout 9 token-relay


@pytest.mark.parametrize(
    ("words", "is_starting"),
    [
        ((*PYTHON, "companion", "run", "--socket", "here"), True),  # from where it was started
        ((*PYTHON, "companion", "run", "--socket", "elsewhere"), False),
        ((*PYTHON, "companion", "rename", "run", "--socket", "here"), False),
        ((*PYTHON, "phone", "run", "--socket", "here"), False),
        ((*SHELL, "companion", "run", "--socket", "here"), False),
    ],
)
def test_a_young_process_is_an_agent_by_its_command_and_its_directory(
    words: tuple[str, ...], is_starting: bool, short_path: Path
) -> None:
    (short_path / "here").mkdir()
    with process_called(short_path, *words):
        assert starting.agent("companion", short_path / "here") is is_starting


@pytest.mark.parametrize(
    ("words", "is_starting"),
    [
        (("sandbox", "--http-port", "PORT"), True),
        (("sandbox", "--http-port", "1"), False),
        (("sandbox", "ctl", "--http-port", "PORT"), False),
        (("demo", "--http-port", "PORT"), False),
    ],
)
def test_a_process_is_a_sandbox_by_its_command_and_its_port(
    words: tuple[str, ...], is_starting: bool, short_path: Path
) -> None:
    port = free_port()
    with process_called(short_path, *PYTHON, *(word.replace("PORT", str(port)) for word in words)):
        assert starting.sandbox(port) is is_starting


@pytest.mark.parametrize(
    ("url", "is_waited_for"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://[::1]:8080/x", True),
        ("http://sandbox.example:8080", False),
        ("http://127.0.0.1", False),
    ],
)
def test_only_a_sandbox_on_this_machine_is_waited_for(
    url: str, is_waited_for: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[str] = []
    monkeypatch.setattr(starting, "wait", lambda *looks: waits.append(url))
    starting.wait_for_sandbox(url, lambda text: None)
    assert bool(waits) is is_waited_for


@pytest.mark.parametrize(
    ("failure", "is_refused"), [(ConnectionRefusedError(), True), (TimeoutError(), False), (OSError(101, "x"), False)]
)
def test_only_a_refused_connection_is_a_sign_of_a_start(
    failure: OSError, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(address: tuple[str, int], timeout: float) -> None:
        raise failure

    monkeypatch.setattr("token_relay.cli.starting.socket.create_connection", connect)
    assert starting._is_refused("127.0.0.1", 8080) is is_refused


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


def stop(process: subprocess.Popen[str]) -> None:
    """Stop a program that ``Popen`` has just begun, before it runs a line of Python, and wait until it has stopped.

    ``Popen`` returns inside the exec, where the command line in /proc is still empty.
    """
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


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
        stop(agent)
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
        stop(elsewhere)
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
        stop(sandbox)
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
