"""Logs what a person should do when the broker cannot be reached, once for each new reason.

The channel says in a few words why a connection failed. The cause often lies on this device's own disk: a certificate
that has ended, one that is not there yet, a clock that was never set. Only when the reason points to the files does
this module read them and load the X.509 library.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from token_relay.host.config import BrokerConfig

log = structlog.get_logger()

REFUSED = "certificate not accepted by the broker"
TWICE = "stop the other agent with this vault: it runs twice, as on a copied disk"
OTHERS = {  # beginnings of the channel's reasons; docs/troubleshooting.md has all of them
    "user name or password": "correct broker.username or the password in broker.password_file",
    "not authorized": "write this device's id into the broker's access list",
    "client id not accepted": TWICE,
    "another connection uses this client id": TWICE,
    "the broker does not speak": 'set protocol = "3.1.1" under [broker]',
    "host name": "correct the host in broker.url, or bring this machine's DNS up",
    "TLS failed": "correct the port in broker.url: this one does not speak TLS",
}
WAITS = "the agent tries again by itself, at least once a minute"


def advice(reason: str, broker: BrokerConfig, now_s: float) -> str:
    """Return one sentence: what to do about this reason. Blocks: it reads three files and may ask the broker."""
    if reason.startswith("certificate"):
        return _about_certificates(reason, broker, now_s)
    return next((hint for beginning, hint in OTHERS.items() if reason.startswith(beginning)), WAITS)


def _about_certificates(reason: str, broker: BrokerConfig, now_s: float) -> str:
    from token_relay.service.checks.broker import certificates, refused_hint, trust_hint
    from token_relay.service.checks.machine import BUILT_AT

    for check in certificates(broker, now_s):
        if not check.is_ok:
            return f"{check.detail}; {check.hint}" if check.hint else check.detail
    if now_s < BUILT_AT:
        return f"the clock says {datetime.fromtimestamp(now_s, UTC):%Y-%m-%d}: set it, or wait until the network has"
    if reason != REFUSED:
        return trust_hint(reason, broker, now_s)
    return refused_hint(broker)


class Adviser:
    """Remembers what it logged, so that a broker that is away for a week does not fill the journal."""

    def __init__(self, broker: BrokerConfig, wall_s: Callable[[], float]) -> None:
        self._broker = broker
        self._wall_s = wall_s
        self._said = ""

    async def failed(self, reason: str) -> None:
        """Log what to do about this reason, unless the last failure had the same one."""
        if reason and reason != self._said:
            self._said = reason
            told: Any = log.error if reason.startswith("certificate") else log.warning
            hint = await asyncio.to_thread(advice, reason, self._broker, self._wall_s())
            told("broker_unreachable", reason=reason, hint=hint)

    def connected(self) -> None:
        """Forget the last reason, so that the next failure is logged again."""
        self._said = ""
