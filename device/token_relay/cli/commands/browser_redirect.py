"""Redirects one browser from a loopback address to an address with a secret in it.

A browser gets its address in its command line, which everybody on the machine can read. So it gets this loopback
address, which redirects to the secret one. It redirects once, for one random path, and only a program of this user:
the kernel's table of connections names the owner of the other end. Every other request gets a 404 and changes nothing.

Limits: the table needs Linux; a browser that runs as another user is refused.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import time
from contextlib import suppress

from token_relay.host.loopback_peer import TABLES, owner_of
from token_relay.protocol.errors import LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

REQUEST_BYTES_MAX = 16_384
REQUEST_TIMEOUT_S = 2.0  # browsers open connections in advance and send nothing; the next one waits that long

_HEADERS = "Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nContent-Length: 0\r\nConnection: close\r\n"
_SORRY = b"You could not be signed in. The command that opened this page says why.\n"


class Doorway:
    """One redirect. Use with ``with``; the port is free again afterwards."""

    def __init__(self) -> None:
        if not TABLES[0].exists():
            raise LocalError("this system does not tell whose a connection is", hint="use --print")
        self._path = f"/{secrets.token_urlsafe(32)}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Doorway:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Accept no more connections."""
        self._listener.close()

    @property
    def url(self) -> str:
        """The address to start the browser with."""
        return f"http://127.0.0.1:{self._port}{self._path}"

    def admit(self, arrive: Callable[[], str], *, wait_s: float) -> bool:
        """Wait for the browser, then redirect it to what ``arrive`` returns; for an empty string, show an apology.

        Returns False when no browser came within ``wait_s``. What ``arrive`` raises is raised here, after the apology.
        """
        ends_at = time.monotonic() + wait_s
        while (left := ends_at - time.monotonic()) > 0:
            self._listener.settimeout(left)
            try:
                connection, client = self._listener.accept()
            except TimeoutError:
                continue
            with connection:
                if self._meets_browser(connection, client):
                    self._redirect(connection, arrive)
                    return True
        return False

    def _meets_browser(self, connection: socket.socket, client: tuple[str, int]) -> bool:
        try:
            connection.settimeout(REQUEST_TIMEOUT_S)
            if self._is_the_browser(_head(connection), client):
                return True
            connection.sendall(f"HTTP/1.1 404 Not Found\r\n{_HEADERS}\r\n".encode())
        except OSError:
            pass  # a request that is not complete gets no answer
        return False

    def _redirect(self, connection: socket.socket, arrive: Callable[[], str]) -> None:
        location = ""
        try:
            location = arrive()
        finally:  # the browser gets an answer in any case, since the person looks at it
            if location:
                answer = f"HTTP/1.1 303 See Other\r\nLocation: {location}\r\n{_HEADERS}\r\n".encode()
            else:
                head = _HEADERS.replace("Content-Length: 0", f"Content-Length: {len(_SORRY)}")
                answer = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\n{head}\r\n".encode() + _SORRY
            with suppress(OSError):
                connection.sendall(answer)

    def _is_the_browser(self, head: bytes, client: tuple[str, int]) -> bool:
        lines = head.decode("latin-1").split("\r\n")
        if not hmac.compare_digest(lines[0].encode("latin-1"), f"GET {self._path} HTTP/1.1".encode()):
            return False
        fields = [line.lower().partition(":")[::2] for line in lines[1:]]
        # A browser may only prefetch the address; a page whose host name points at 127.0.0.1 has its own Host.
        is_ahead = any(name in ("purpose", "sec-purpose") for name, _ in fields)
        hosts = [value.strip() for name, value in fields if name == "host"]
        if is_ahead or hosts != [f"127.0.0.1:{self._port}"]:
            return False
        return owner_of(client, self._port) == os.getuid()


def _head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and len(head) < REQUEST_BYTES_MAX:
        received = connection.recv(REQUEST_BYTES_MAX)
        if not received:
            break
        head += received
    return head
