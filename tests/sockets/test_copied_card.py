"""A vault on another board is a copy: it does nothing until a person says that it lives there."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import structlog

from tests.watchdog import HANG_S
from token_relay.cli.client import ClientError, control_call, get_token
from token_relay.host.board import read_board
from token_relay.host.config import CompanionConfig, Home, PhoneConfig
from token_relay.host.config_file import check_config
from token_relay.host.home import create_home
from token_relay.service.board_check import is_copy
from token_relay.service.companion import run_companion
from token_relay.service.phone import run_phone

BROKER = '[broker]\nurl = "mqtt://127.0.0.1:1"\n'  # no process listens there
CONFIG = {
    "companion": f'name = "watch"\n{BROKER}',
    "phone": f'name = "phone"\n{BROKER}[provider]\nurl = "https://idp.invalid"\nclient_id = "c"\n',
}
HERE = {"device-tree": "1", "machine-id": "m"}
THERE = {"device-tree": "2", "machine-id": "m"}
Kind = Literal["companion", "phone"]


@pytest.mark.parametrize(
    ("recorded", "here", "expected"),
    [
        ({}, {}, False),
        ({}, HERE, False),
        (HERE, {}, False),
        (HERE, HERE, False),
        (HERE, THERE, True),
        # the same board with its system installed anew
        (HERE, {"device-tree": "1", "machine-id": "n"}, False),
        # the board is not known twice: root saw it once, the service does not
        (HERE, {"machine-id": "m"}, False),
        (HERE, {"machine-id": "n"}, True),
        ({"machine-id": "m"}, THERE, False),
        ({"machine-id": "n"}, THERE, True),
        ({"dmi": "1", "machine-id": "m"}, {"device-tree": "1", "machine-id": "m"}, False),
        ({"dmi": "1", "device-tree": "1"}, {"dmi": "1", "device-tree": "2"}, True),
    ],
)
def test_hardware_decides_and_the_machine_id_where_no_hardware_is_known_twice(
    recorded: dict[str, str], here: dict[str, str], expected: bool
) -> None:
    assert is_copy(recorded, here) is expected
    assert is_copy(here, recorded) is expected


def plant(root: Path, path: str, content: bytes) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)


def test_board_is_read_from_the_device_tree_else_the_dmi_and_hashed(tmp_path: Path) -> None:
    assert read_board({}, tmp_path) == {}
    plant(tmp_path, "etc/machine-id", b"0123456789abcdef0123456789abcdef\n")
    plant(tmp_path, "sys/class/dmi/id/product_uuid", b"To be filled by O.E.M.\n")
    assert set(read_board({}, tmp_path)) == {"machine-id"}
    plant(tmp_path, "sys/class/dmi/id/board_serial", b"S-1\n")
    first = read_board({}, tmp_path)
    assert set(first) == {"machine-id", "dmi"}
    plant(tmp_path, "sys/firmware/devicetree/base/serial-number", b"10000000abcdef01\0")
    plant(tmp_path, "credentials/board-id", b"B-7")
    found = read_board({"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}, tmp_path)
    assert set(found) == {"machine-id", "dmi", "device-tree", "credential"}
    assert found["dmi"] == first["dmi"]
    assert all(len(value) == 32 and value.isalnum() for value in found.values())
    assert "0123456789abcdef" not in str(found)


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"00000000\n", b"None\n", b"Default string", b"uninitialized\n", b"FFFFFFFF-FFFF"]
)
def test_a_field_that_nobody_filled_names_nothing(tmp_path: Path, content: bytes) -> None:
    plant(tmp_path, "sys/class/dmi/id/product_uuid", content)
    assert read_board({}, tmp_path) == {}


# -- The programs ------------------------------------------------------------------------------------------


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tr-", dir="/tmp") as name:
        yield Path(name)


@asynccontextmanager
async def running(kind: Kind, directory: Path, board: dict[str, str]) -> AsyncIterator[None]:
    """Run an agent on a board until the block ends."""
    text = CONFIG[kind]
    create = asyncio.to_thread(create_home, kind, directory, text)
    await create
    home = Home(directory, directory, {}, board)
    if kind == "phone":
        phone = check_config(PhoneConfig, text, directory)
        assert isinstance(phone, PhoneConfig)
        work = run_phone(home, phone)
    else:
        companion = check_config(CompanionConfig, text, directory)
        assert isinstance(companion, CompanionConfig)
        work = run_companion(home, companion)
    task = asyncio.create_task(work)
    try:
        async with asyncio.timeout(HANG_S):
            while not await answers(directory):
                assert not task.done(), task.result()
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def answers(directory: Path) -> bool:
    try:
        await ask(directory, "status")
        await asyncio.to_thread(get_token, directory / "token.sock", {})
    except ClientError as exc:
        return exc.code != "not_running"
    return True


async def ask(directory: Path, command: str) -> dict[str, Any]:
    return dict(await asyncio.to_thread(control_call, directory / "control.sock", command, {}, silence_s=HANG_S))


async def refusal(directory: Path) -> str:
    _, answer = await asyncio.to_thread(get_token, directory / "token.sock", {})
    return str(answer["error"])


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["companion", "phone"])
async def test_copy_is_locked_until_it_is_adopted(directory: Path, kind: Kind) -> None:
    with structlog.testing.capture_logs() as logs:
        async with running(kind, directory, HERE):
            assert (await ask(directory, "status"))["action"] != "copied"
            assert "nothing to do" in (await ask(directory, "adopt"))["message"]
        begun = len(logs)
        async with running(kind, directory, THERE):
            status = await ask(directory, "status")
            assert status["action"]["slug"] == "copied"
            assert f"token-relay {kind} adopt" in status["action"]["sentence"]
            assert status["broker"]["connected"] is False
            assert await refusal(directory) == "locked"
            with pytest.raises(ClientError):
                await ask(directory, "pair")
            events = {line["event"] for line in logs[begun:]}
            assert "agent_started" not in events and not any("mqtt" in event for event in events), events
            await ask(directory, "adopt")
            async with asyncio.timeout(HANG_S):
                while [line["event"] for line in logs].count("agent_started") < 2 or not await answers(directory):
                    await asyncio.sleep(0)
            assert (await ask(directory, "status"))["action"]["slug"] != "copied"
            assert await refusal(directory) == "not_found"
        async with running(kind, directory, THERE):
            assert (await ask(directory, "status"))["action"]["slug"] != "copied"
        async with running(kind, directory, HERE):
            assert (await ask(directory, "status"))["action"]["slug"] == "copied"
    (first, *_) = [line for line in logs if line["event"] == "vault_copied"]
    assert first["log_level"] == "error" and "adopt here, or pair anew" in first["hint"]


@pytest.mark.asyncio
async def test_a_board_that_cannot_be_read_locks_nothing(directory: Path) -> None:
    for board in (HERE, {}, {"machine-id": "m"}, HERE):
        async with running("companion", directory, board):
            assert (await ask(directory, "status"))["action"]["slug"] != "copied"
