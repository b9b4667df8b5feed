"""``run``: finds home, sockets and configuration, and runs the agent until it is stopped."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path

from token_relay.cli.parsing import DONE, Context
from token_relay.cli.starting import marked
from token_relay.cli.structlog_without_rich import structlog
from token_relay.host import mounts
from token_relay.host.board import read_board
from token_relay.host.config import AgentConfig, CompanionConfig, Home, Kind, PhoneConfig
from token_relay.host.config_file import load_config
from token_relay.host.logs import configure
from token_relay.host.paths import CONTROL_SOCKET, agent_home, check_socket_path, config_file, socket_directory
from token_relay.host.systemd import harden_process
from token_relay.protocol.errors import ConfigError, RelayError

log = structlog.get_logger()

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run_agent(args: argparse.Namespace, context: Context) -> int:
    """``phone run`` and ``companion run``: run until SIGTERM or SIGINT, after which the exit code is 0."""
    kind: Kind = "phone" if args.group == "phone" else "companion"
    sockets = socket_directory(kind, context.env, home=args.home, socket=args.socket).absolute()
    with marked(sockets):
        harden_process()  # after the mark, for it hides the other sign of a start
        return _run(args, context, kind, sockets)


def _run(args: argparse.Namespace, context: Context, kind: Kind, sockets: Path) -> int:
    directory = agent_home(kind, context.env, home=args.home).absolute()
    path = config_file(kind, context.env, home=args.home, config=args.config)
    if path is None:
        raise ConfigError(
            f"no configuration in {directory} or /etc/token-relay", hint=f"make one: token-relay {kind} init --help"
        )
    check_socket_path(sockets / CONTROL_SOCKET)
    home = Home(directory, sockets, context.env, read_board(context.env), path.absolute())
    configure_logs(context)
    if kind == "phone":
        phone_config = load_config(PhoneConfig, path)
        _first_start(home, phone_config)
        from token_relay.service.phone import run_phone

        work = run_phone(home, phone_config)
        warnings = phone_config.warnings()
    else:
        companion_config = load_config(CompanionConfig, path)
        _first_start(home, companion_config)
        from token_relay.service.companion import run_companion

        work = run_companion(home, companion_config)
        warnings = companion_config.warnings()
    for warning in filter(None, [*warnings, mounts.warning(directory)]):
        context.note(f"warning: {warning}")
    try:
        asyncio.run(until_stopped(work))
    except ExceptionGroup as exc:  # the agent's tasks are in a group; a person sees the reason, not the group
        reason = _reason(exc)
        if reason is None:
            raise
        raise reason from exc
    return DONE


def _reason(group: ExceptionGroup[Exception]) -> RelayError | None:
    """Return our own error that ended the agent; None when there were other errors too, which is a bug."""
    leaves: list[Exception] = []
    pending: list[Exception] = [group]
    while pending:
        exc = pending.pop()
        if isinstance(exc, ExceptionGroup):
            pending.extend(exc.exceptions)
        else:
            leaves.append(exc)
    return leaves[0] if len(leaves) == 1 and isinstance(leaves[0], RelayError) else None


def _first_start(home: Home, config: AgentConfig) -> None:
    """Make the home of a service that starts for the first time, in the service manager's directory."""
    if home.environment.get("STATE_DIRECTORY", "").split(":")[0] != str(home.directory):
        return
    from token_relay.host.home import first_start

    made = first_start(home.directory, config, home.environment)
    if made is not None:
        from token_relay.host.device_key import CSR_NAME

        log.info("home_made", device_id=made.device_id, sign=str(home.directory / CSR_NAME))


async def until_stopped(work: Coroutine[object, object, None]) -> None:
    """Run ``work``, cancel it at the first stop signal, and return when it has ended.

    A second signal has no effect: an agent may be between "the provider may have rotated" and "it is on disk".
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    is_stopped = False

    def stop() -> None:
        nonlocal is_stopped
        if not is_stopped:
            is_stopped = True
            task.cancel()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        await work
    except asyncio.CancelledError:
        if not is_stopped:
            raise
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


def configure_logs(context: Context) -> None:
    """Send the log of this process to standard error, in the form for a terminal, the journal or a file."""
    # systemd.exec(5): JOURNAL_STREAM names the stream that standard error is connected to
    configure(
        context.stderr, environment=context.env, journal_prefix=_is_journal(context.env.get("JOURNAL_STREAM", ""))
    )


def _is_journal(stream: str) -> bool:
    """Whether standard error goes to the journal: it has the device and inode that systemd announced."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"
