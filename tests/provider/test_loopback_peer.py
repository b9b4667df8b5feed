"""The kernel says whose program is at the other end of a loopback connection."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from token_relay.host.loopback_peer import owner_of

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
TCP = f"""{HEAD}\
   0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 2 1
   2: 0100007F:C352 0100007F:1F90 06 00000000:00000000 03:00000000 00000000     0        0 0 1
"""
MAPPED = "0000000000000000FFFF00000100007F"
TCP6 = f"{HEAD}   0: {MAPPED}:C353 {MAPPED}:1F90 01 00000000:00000000 00:00000000 00000000  1002        0 2 1\n"


def test_the_owner_of_the_clients_end_is_named(tmp_path: Path) -> None:
    (tmp_path / "tcp").write_text(TCP)
    (tmp_path / "tcp6").write_text(TCP6)
    tables = (tmp_path / "tcp", tmp_path / "tcp6")
    assert owner_of(("127.0.0.1", 0xC350), 0x1F90, tables) == 1001
    assert owner_of(("127.0.0.1", 0xC351), 0x1F90, tables) is None
    assert owner_of(("127.0.0.1", 0xC352), 0x1F90, tables) is None  # closed: its uid says 0, which is nobody's
    assert owner_of(("127.0.0.1", 0xC353), 0x1F90, tables) == 1002
    assert owner_of(("127.0.0.1", 0xC353), 0x1F90, (tmp_path / "tcp", tmp_path / "missing")) is None


def test_this_kernel_names_this_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert owner_of(client.getsockname(), port) == os.geteuid()
            assert owner_of(("127.0.0.2", client.getsockname()[1]), port) is None  # another one's, with the same port
