"""``doctor``: checks this installation, with one line per check.

First come the checks without the agent (home, configuration, clock, disk, key, certificates, broker, sockets, unit),
then whether it runs, then its ``status``, and its command ``doctor`` where it has one
(``{"checks": [{"name", "ok", "detail", "hint"}]}``). The checks themselves are in :mod:`token_relay.service.checks`.
"""

from __future__ import annotations

import argparse
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from token_relay.cli.client import JSON, ClientError, JsonObject
from token_relay.cli.commands.agent_calls import call
from token_relay.cli.parsing import DONE, FAILED, NOT_RUNNING, Context
from token_relay.cli.render import clean, show
from token_relay.host.clock import SystemClock
from token_relay.host.config import CompanionConfig, Kind, PhoneConfig
from token_relay.host.config_file import load_config
from token_relay.host.paths import agent_home, config_file, search_directories, with_path
from token_relay.protocol.errors import ConfigError
from token_relay.service.broker_advice import advice
from token_relay.service.checks import broker, local, machine, provider
from token_relay.service.checks.finding import Finding

SERVICE_HOMES = Path("/var/lib/token-relay")
SILENCE_S = 60.0  # the agent asks the broker five times and the provider once
UNKNOWN_COMMAND = "unknown_command"
LOCKED = frozenset({"copied"})  # until a person has done one of these actions, the agent does nothing at all


def run(args: argparse.Namespace, context: Context) -> int:
    """Check, print, and return 0 when all is well, 3 when the agent does not run, 1 when a check failed."""
    kind: Kind = "phone" if args.group == "phone" else "companion"
    is_running = True
    config, checks = _configured(args, context, kind)
    if config is not None:
        checks += _here(args, context, kind, config)
    status: JsonObject = {}
    try:
        checks.append(Finding("agent", True, "running"))
        status = call(args, context, "status", silence_s=SILENCE_S)
        checks += [*_from_status(status, config), *_own_checks(args, context)]
    except ClientError as exc:
        is_running = exc.code != "not_running"
        checks = [check for check in checks if check.name != "agent"]
        checks.append(Finding("agent", False, str(exc), exc.hint))
    if config is not None and all(check.name != "provider" for check in checks):
        checks += provider.without_agent(config, _issuers(status))
    if config is not None:
        path = config_file(kind, context.env, home=args.home, config=args.config)
        checks = [replace(check, hint=with_path(check.hint, path)) for check in checks]
    is_fine = all(check.is_ok for check in checks)
    if context.as_json:
        show(context, {"ok": is_fine, "checks": [check.as_json() for check in checks]})
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            context.out(f"{check.mark:<4}  {clean(check.name):<{width}}  {clean(check.detail)}".rstrip())
            if check.hint:
                context.out(f"      {'':<{width}}  try: {clean(check.hint)}")
    if not is_running:
        return NOT_RUNNING
    return DONE if is_fine else FAILED


def _configured(
    args: argparse.Namespace, context: Context, kind: Kind
) -> tuple[PhoneConfig | CompanionConfig | None, list[Finding]]:
    """Judge home and configuration; without a configuration, no other check is possible."""
    checks = [_home(home_of(kind, args, context), kind)]
    try:
        path = config_file(kind, context.env, home=args.home, config=args.config)
        if path is None:
            return None, [*checks, Finding("configuration", False, "none found", f"token-relay {kind} init --help")]
        config = load_config(PhoneConfig, path) if kind == "phone" else load_config(CompanionConfig, path)
    except ConfigError as exc:
        return None, [*checks, *(Finding("configuration", False, line, exc.hint) for line in str(exc).split("\n"))]
    return config, [*checks, Finding("configuration", True, "; ".join((str(path), *config.warnings())))]


def home_of(kind: Kind, args: argparse.Namespace, context: Context, services: Path = SERVICE_HOMES) -> Path:
    """Return the home to look at: the service's, if the command line names none and this person has none."""
    home = agent_home(kind, context.env, home=args.home).absolute()
    variables = ("TOKEN_RELAY_HOME", "TOKEN_RELAY_HOMES", "STATE_DIRECTORY")
    is_named = args.home is not None or any(map(context.env.get, variables))
    return home if is_named or home.exists() or not (services / kind).exists() else services / kind


def _home(home: Path, kind: Kind) -> Finding:
    try:
        status = home.stat()
    except OSError as exc:
        return Finding("home", False, f"{home}: {exc.strerror}", f"token-relay {kind} init --help")
    if not stat.S_ISDIR(status.st_mode):
        return Finding("home", False, f"{home} is not a directory")
    if status.st_mode & 0o022:  # others may read it: a service manager makes state directories 0755
        return Finding("home", False, f"others may write to {home}", f"chmod go-w {home}")
    return Finding("home", True, str(home))


def _here(
    args: argparse.Namespace, context: Context, kind: Kind, config: PhoneConfig | CompanionConfig
) -> Iterator[Finding]:
    home = home_of(kind, args, context)
    now = SystemClock().now()
    yield machine.clock(now)
    if home.is_dir():
        yield machine.look_at_disk(home)
        yield local.vault_key(home, config.vault, local.CREDENTIAL_STORES)
    yield from broker.certificates(config.broker, now.wall_s)
    yield broker.reach(config.broker, now.wall_s)
    yield from provider.files(config, now.wall_s)
    yield broker.settings(config.broker, broker.confs_here(system=broker.SYSTEM_CONF))
    yield local.sockets(home, search_directories(kind, context.env, home=args.home, socket=args.socket))
    yield from machine.look_at_unit(kind, context.env)


def _issuers(status: JsonObject) -> set[str]:
    """Return the issuers of a companion's grants."""
    grants = status.get("grants")
    rows = [row for row in grants if isinstance(row, dict)] if isinstance(grants, list) else []
    return {_text(row.get("issuer")) for row in rows} - {""}


def _own_checks(args: argparse.Namespace, context: Context) -> list[Finding]:
    try:
        found = call(args, context, "doctor", silence_s=SILENCE_S).get("checks")
    except ClientError as exc:
        if exc.code != UNKNOWN_COMMAND:
            raise
        return []
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    return [
        Finding(_text(row.get("name")), row.get("ok") is True, _text(row.get("detail")), _text(row.get("hint")))
        for row in rows
    ]


def _from_status(status: JsonObject, config: PhoneConfig | CompanionConfig | None) -> Iterator[Finding]:
    connection, action = _table(status, "broker"), _table(status, "action")
    if connection:
        error, is_up = _text(connection.get("last_error")), connection.get("connected") is True
        hint = "" if is_up or config is None else advice(error, config.broker, SystemClock().now().wall_s)
        yield Finding("connection", is_up, error or _text(connection.get("url")), hint)
    if action:
        slug = _text(action.get("slug"))
        yield Finding("action", slug not in LOCKED, slug, _text(action.get("sentence")))


def _table(status: JsonObject, name: str) -> JsonObject:
    value = status.get(name)
    return value if isinstance(value, dict) else {}


def _text(value: JSON) -> str:
    return "" if value is None else str(value)
