"""Whose program is at the other end of a loopback connection. proc_net(5)

The kernel's tables of connections name the owner of each end. An end that its program has closed already shows uid 0
there, so only an open one counts. And another user may connect from 127.0.0.2, with a port that a program of ours has
on 127.0.0.1: so a client is known by address and port, and has this one address, as browsers do.

Limit: the tables need Linux; elsewhere, nobody is known.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))  # tcp6: an IPv6 socket that connected to ::ffff:127.0.0.1
_ESTABLISHED = "01"


def _as_kernel_writes(address: bytes) -> str:
    """Spell an address as the tables do: words of 32 bits, each a number in the machine's byte order."""
    return "".join(f"{int.from_bytes(address[at : at + 4], sys.byteorder):08X}" for at in range(0, len(address), 4))


_ADDRESS = "127.0.0.1"
_LOOPBACK = _as_kernel_writes(socket.inet_aton(_ADDRESS))
_MAPPED = _as_kernel_writes(socket.inet_pton(socket.AF_INET6, "::ffff:127.0.0.1"))


def owner_of(client: tuple[str, int], port: int, tables: tuple[Path, ...] = TABLES) -> int | None:
    """Return the uid that owns the client's end of a connection to ``port`` on 127.0.0.1, or None.

    ``client``: its address and port.
    """
    if client[0] != _ADDRESS:
        return None
    wanted = [[f"{one}:{client[1]:04X}", f"{one}:{port:04X}", _ESTABLISHED] for one in (_LOOPBACK, _MAPPED)]
    for table in tables:
        try:
            lines = table.read_text("ascii").splitlines()
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if len(fields) > 7 and fields[1:4] in wanted:
                return int(fields[7])
    return None
