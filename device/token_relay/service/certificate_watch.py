"""Notices renewed certificates, so that a connection of many months does not outlive the certificate it began with.

It compares the files' identities, not their content. A change counts only when certificate and key belong together, so
that nothing happens while only one of the two has been copied.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from token_relay.host.atomic_files import read_bytes
from token_relay.host.config import BrokerConfig
from token_relay.protocol.errors import RelayError

log = structlog.get_logger()

LOOK_EVERY_S = 600.0  # three file lookups; a renewal is due weeks before the end

_Identity = tuple[tuple[int, int, int] | None, ...]


class CertificateWatch:
    """Watches the broker's files of a configuration; ``on_renewed`` runs after each change."""

    def __init__(self, broker: BrokerConfig, on_renewed: Callable[[], None]) -> None:
        self._broker = broker
        self._on_renewed = on_renewed
        self._files = tuple(file for file in (broker.ca, broker.cert, broker.key) if file is not None)
        self._seen = self._look()

    async def run(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Look now and then, until cancelled."""
        while True:
            await sleep(LOOK_EVERY_S)
            self.check()

    def check(self) -> None:
        """Look now."""
        found = self._look()
        if found == self._seen or not self._fits():
            return
        self._seen = found
        log.info("certificates_renewed")
        self._on_renewed()

    def _look(self) -> _Identity:
        return tuple(_identity(file) for file in self._files)

    def _fits(self) -> bool:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self._broker.ca is not None:
                context.load_verify_locations(self._broker.ca)
            if self._broker.cert is not None:
                context.load_cert_chain(self._broker.cert, self._broker.key, password=b"")
        except OSError:  # ssl.SSLError is one
            return False
        return True


def _identity(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def certificate_end(file: Path | None) -> int | None:
    """Return when a certificate ends, in Unix seconds; None where there is none that can be read."""
    from token_relay.pki import certificates as pki  # x509 is loaded at the first question

    if file is None:
        return None
    try:
        certificate = pki.parse_certificate(read_bytes(file, size_max=pki.PEM_BYTES_MAX))
    except (OSError, RelayError):
        return None  # `doctor` says what is wrong with it
    return int(certificate.not_valid_after_utc.timestamp())
