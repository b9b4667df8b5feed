"""``token-relay try``: the demo's sandbox and agents, with a first handoff behind them, kept running for a person.

The demo proves, this stays: the same programs, on the ports and under the commands that the documents show, until a
stop signal. Homes and logs are in a directory of their own, and no home of the person is touched. The lines that it
prints are for another terminal; a test runs them word for word. When a program ends by itself, that is said with the
last lines of its log; without the sandbox there is nothing left to try, and all of it ends.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from token_relay.cli.demo import steps
from token_relay.cli.demo.checks import StepFailedError
from token_relay.cli.demo.programs import Interrupts, Program, Programs
from token_relay.cli.demo.stage import Stage
from token_relay.cli.parsing import DONE, FAILED, HTTP_PORT, MQTT_PORT, Context
from token_relay.cli.render import clean


def run_try(context: Context, *, profile: str, home: Path | None) -> int:
    """Set everything up, say what to type, and stay until a stop signal; return the exit code. For the main thread.

    Raises:
        ConfigError: ``home`` cannot be used.
    """
    began_at = time.monotonic()
    with Interrupts() as interrupts, Programs(context.env, interrupts, home) as programs:
        stage = Stage(programs, profile)
        try:
            running = _set_up(stage, context)
        except StepFailedError as exc:
            context.note(f"token-relay: expected {clean(exc.expected)}; got {clean(exc.got)}")
            for name, lines in programs.log_tails():
                _show_log(context, name, lines)
            return FAILED
        took_s = time.monotonic() - began_at
        try:
            if context.as_json:
                context.out(json.dumps({**_facts(stage), "took_s": round(took_s, 2)}))
            else:
                for line in _told(stage, took_s, is_kept=home is not None):
                    context.out(line)
            if not context.as_json and context.stdin.isatty():
                sandbox = next(iter(running))
                threading.Thread(target=_address_on_enter, args=(sandbox, context), daemon=True).start()
            return _stay(programs, running, context)
        except KeyboardInterrupt:
            context.note("stopping")
        except SystemExit:  # SIGTERM, or a terminal that was closed
            pass
        return DONE


def _set_up(stage: Stage, context: Context) -> dict[Program, str]:
    """Do what a person would do by hand; return the programs that stay, by name. Raises StepFailedError."""
    sandbox = _start_sandbox(stage, context)
    stage.init_agents()
    stage.start_agents()
    steps.sign_in(stage)
    steps.pair(stage)
    stage.hand_off()
    return {sandbox: "sandbox", stage.phone.running: "phone", stage.companion.running: "companion"}


def _start_sandbox(stage: Stage, context: Context) -> Program:
    """Start it on the usual ports, and where somebody has one, or takes one while it starts, on any."""
    while True:
        http_port, mqtt_port = _free_or_any("provider", HTTP_PORT, context), _free_or_any("broker", MQTT_PORT, context)
        try:
            return stage.start_sandbox(
                "--lab", "--lab-port", "0", http_port=http_port, mqtt_port=mqtt_port, keeps_stdin=True
            )
        except StepFailedError as exc:
            if os.strerror(errno.EADDRINUSE) not in exc.got or not (http_port or mqtt_port):
                raise


def _free_or_any(what: str, port: int, context: Context) -> int:
    """Return the port if it is free, else 0, and say so."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            context.note(f"port {port} is taken: the {what} gets another one")
            return 0
    return port


def _address_on_enter(sandbox: Program, context: Context) -> None:
    """Have the sandbox make another address of the lab for each Enter, and print it."""
    given = 1
    while context.stdin.readline() and sandbox.popen.stdin is not None:
        try:
            sandbox.popen.stdin.write(b"\n")
            found = sandbox.find(rf'(?s)\A(?:.*?"lab": "(\S+?)"){{{given + 1}}}')
        except (OSError, ValueError, StepFailedError):  # ValueError: all of it ends, and this pipe is closed
            return  # it has ended, which is said elsewhere
        given += 1
        context.out(found[1])


def _stay(programs: Programs, running: Mapping[Program, str], context: Context) -> int:
    """Wait for the end of a program, and say it; return when the sandbox has ended."""
    while True:
        ended = programs.wait_for_an_end()
        name = running[ended]
        context.note(f"the {name} has ended (exit code {ended.popen.returncode})")
        for log, lines in programs.log_tails():
            if programs.directory / f"{log}.log" == ended.err_file:
                _show_log(context, log, lines)
        if name == "sandbox":
            return FAILED
        context.note(f"  hint: start it again in the other terminal: token-relay {name} run")


def _show_log(context: Context, name: str, lines: list[str]) -> None:
    context.note(f"last lines of {name}.log:")
    for line in lines:
        context.note(f"  {clean(line)}")


# -- What is said ------------------------------------------------------------------------------------------


def _facts(stage: Stage) -> dict[str, object]:
    facts, directory = stage.sandbox.facts, stage.programs.directory
    return {
        "profile": stage.profile,
        "provider": facts["http"],
        "broker": facts["mqtt"],
        "account": stage.username,
        "device": stage.companion.name,
        "device_id": stage.companion.device_id,
        "lab": facts["lab"],
        "homes": str(directory),
        "environment": {"TOKEN_RELAY_HOMES": str(directory)},
    }


def _told(stage: Stage, took_s: float, *, is_kept: bool) -> Iterator[str]:
    facts, directory = stage.sandbox.facts, stage.programs.directory
    yield f"{stage.username} has signed in on the phone and handed a grant to the companion ({took_s:.1f} s)."
    yield "Sandbox, phone and companion run until Ctrl-C."
    yield ""
    yield f"  provider  {facts['http']}   broker  {facts['mqtt']}"
    yield f"  homes and logs in {directory}, {'which stays' if is_kept else 'removed at the end'}"
    yield ""
    yield "All of it as pages, opened once by this address (Enter prints a new one):"
    yield ""
    yield f"  {facts['lab']}"
    yield ""
    yield "In another terminal, first:"
    yield ""
    yield f"  {_export(directory)}"
    for what, line in _lines(stage):
        yield ""
        yield f"{what}:"
        yield f"  {line}"


def _export(directory: Path) -> str:
    """Return the line after which the short commands mean these agents."""
    program = Path(sys.executable).with_name("token-relay")
    path = f'PATH={shlex.quote(str(program.parent))}:"$PATH" ' if program.exists() else ""
    return f"export {path}TOKEN_RELAY_HOMES={shlex.quote(str(directory))}"


def _lines(stage: Stage) -> Iterator[tuple[str, str]]:
    """Yield what a person may want to see first, and the command for it."""
    http = stage.sandbox.facts["http"]
    url = "" if http == f"http://127.0.0.1:{HTTP_PORT}" else f" --url {http}"
    yield "What the companion's access token says", "token-relay companion token --inspect"
    yield "The phone's devices", "token-relay phone devices"
    yield "The phone goes away", f"token-relay sandbox ctl cut phone-broker{url}"
    yield "The companion gets fresh tokens all the same", "token-relay companion token --force-refresh --inspect"
    yield "The phone comes back", f"token-relay sandbox ctl heal all{url}"
    yield "Take the grant back", f"token-relay phone revoke {stage.companion.name}"
