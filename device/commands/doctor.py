"""``doctor``: what is wrong here, one line per check.

First what can be seen without the agent (home, configuration), then whether it runs, then what it says about itself.
An agent that has a ``doctor`` command of its own is believed (``{"checks": [{"name", "ok", "detail", "hint"}]}``);
else the checks follow from its ``status``.
"""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from device.client import JSON, ClientError, JsonObject
from device.commands.parsing import DONE, FAILED, NOT_RUNNING, Context
from device.commands.talk import call
from device.config import CompanionConfig, Kind, PhoneConfig, load_config
from device.paths import agent_home, config_file
from device.render import clean, show
from relay.errors import ConfigError

SILENCE_S = 30.0  # the agent's checks may include one question to broker and provider each
WANTED = {  # missing, or not readable by this user
    "ca": "bring ca.pem from the CA's directory and make it readable to this user",
    "cert": "`token-relay certs sign` makes it of device.csr; bring it and make it readable to this user",
    "key": "`init --force --new-key` makes a new one; or make it readable to this user",
}
UNKNOWN_COMMAND = "unknown_command"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ``hint`` says what to try when it is not ok."""

    name: str
    is_ok: bool
    detail: str = ""
    hint: str = ""

    def as_json(self) -> JsonObject:
        """Return the shape of ``--json``."""
        return {"name": self.name, "ok": self.is_ok, "detail": self.detail, "hint": self.hint}


def run(args: argparse.Namespace, context: Context) -> int:
    """Check, print, and return 0 when all is well, 3 when the agent does not run, 1 when a check failed."""
    kind: Kind = "phone" if args.group == "phone" else "companion"
    is_running = True
    checks = list(_local(args, context, kind))
    try:
        checks += _of_agent(args, context)
    except ClientError as exc:
        is_running = exc.code != "not_running"
        checks.append(Check("agent", False, str(exc), exc.hint))
    is_fine = all(check.is_ok for check in checks)
    if context.as_json:
        show(context, {"ok": is_fine, "checks": [check.as_json() for check in checks]})
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            mark = "ok  " if check.is_ok else "FAIL"
            context.out(f"{mark}  {clean(check.name):<{width}}  {clean(check.detail)}".rstrip())
            if check.hint and not check.is_ok:
                context.out(f"      {'':<{width}}  try: {clean(check.hint)}")
    if not is_running:
        return NOT_RUNNING
    return DONE if is_fine else FAILED


def _local(args: argparse.Namespace, context: Context, kind: Kind) -> Iterator[Check]:
    home = agent_home(kind, context.env, home=args.home).absolute()
    yield _home(home, kind)
    try:
        path = config_file(kind, context.env, home=args.home, config=args.config)
        if path is None:
            yield Check("configuration", False, "none found", f"token-relay {kind} init --help")
            return
        config = load_config(PhoneConfig, path) if kind == "phone" else load_config(CompanionConfig, path)
    except ConfigError as exc:
        for line in str(exc).split("\n"):
            yield Check("configuration", False, line, exc.hint)
        return
    yield Check("configuration", True, "; ".join((str(path), *config.warnings())))
    for name, file in (("ca", config.broker.ca), ("cert", config.broker.cert), ("key", config.broker.key)):
        if file is not None:
            is_there = os.access(file, os.R_OK)
            yield Check(f"broker {name}", is_there, str(file), "" if is_there else WANTED[name])


def _home(home: Path, kind: Kind) -> Check:
    try:
        status = home.stat()
    except OSError as exc:
        return Check("home", False, f"{home}: {exc.strerror}", f"token-relay {kind} init --help")
    if not stat.S_ISDIR(status.st_mode):
        return Check("home", False, f"{home} is not a directory")
    if status.st_mode & 0o022:  # reading it is left open: a service manager makes state directories 0755
        return Check("home", False, f"others may write to {home}", f"chmod go-w {home}")
    return Check("home", True, str(home))


def _of_agent(args: argparse.Namespace, context: Context) -> list[Check]:
    try:
        found = call(args, context, "doctor", silence_s=SILENCE_S).get("checks")
    except ClientError as exc:
        if exc.code != UNKNOWN_COMMAND:
            raise
        return [Check("agent", True, "running"), *_from_status(call(args, context, "status", silence_s=SILENCE_S))]
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    return [
        Check("agent", True, "running"),
        *(
            Check(_text(row.get("name")), row.get("ok") is True, _text(row.get("detail")), _text(row.get("hint")))
            for row in rows
        ),
    ]


def _from_status(status: JsonObject) -> Iterator[Check]:
    broker, vault, clock = (_table(status, name) for name in ("broker", "vault", "clock"))
    if broker:
        error = _text(broker.get("last_error"))
        yield Check(
            "broker",
            broker.get("connected") is True,
            error or _text(broker.get("url")),
            "not connected yet: ask again, or see `status`",
        )
    if vault:
        yield Check("vault", True, _text(vault.get("detail") or vault.get("key")))
    if clock:
        is_synced = clock.get("synced") is True
        yield Check("clock", is_synced, "" if is_synced else "not synchronised", "start systemd-timesyncd or chrony")


def _table(status: JsonObject, name: str) -> JsonObject:
    value = status.get(name)
    return value if isinstance(value, dict) else {}


def _text(value: JSON) -> str:
    return "" if value is None else str(value)
