"""What both vaults promise: the one on disk and the one in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.vault.samples import RECORDS, Colour, Counter, Grant, Identity, Mixed, Shared, open_vault, put
from token_relay.agents.ports import Transaction, Vault
from token_relay.protocol.secret import AccessToken, PrivateKey, RefreshToken
from token_relay.simulation.ports.memory_vault import MemoryVault
from token_relay.vault.errors import CorruptVaultError
from token_relay.vault.records import VALUE_BYTES_MAX

pytestmark = pytest.mark.asyncio

TOKEN = RefreshToken("a refresh token")
GRANT = Grant("g1", 1, TOKEN)

Opened = Callable[[], AbstractAsyncContextManager[Vault]]


@pytest.fixture(params=["sqlite", "memory"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Return a function that gives a context with a vault; a second call sees what the first has kept."""
    if request.param == "sqlite":
        return lambda: open_vault(tmp_path)
    memory = MemoryVault(RECORDS)

    @asynccontextmanager
    async def give() -> AsyncIterator[Vault]:
        again = MemoryVault(RECORDS, memory.snapshot())
        yield again
        memory.restore(again.snapshot())

    return give


async def test_what_was_put_is_there_after_reopening(opened: Opened) -> None:
    async with opened() as vault:
        await vault.run(lambda tx: tx.put(GRANT))
    async with opened() as vault:
        assert await vault.run(lambda tx: tx.get(Grant, "g1")) == GRANT
        assert await vault.run(lambda tx: tx.get(Grant, "g2")) is None


async def test_run_returns_what_the_step_returns_and_a_step_sees_its_own_writes(opened: Opened) -> None:
    def step(tx: Transaction) -> tuple[Grant | None, list[Grant]]:
        tx.put(GRANT)
        return tx.get(Grant, "g1"), tx.select(Grant)

    async with opened() as vault:
        assert await vault.run(step) == (GRANT, [GRANT])


async def test_an_exception_keeps_nothing_of_the_step_and_reaches_the_caller(opened: Opened) -> None:
    def step(tx: Transaction) -> None:
        tx.put(replace(GRANT, generation=2))
        tx.put(Grant("g2", 1, TOKEN))
        tx.delete(Counter, 1)
        tx.erase_key("g1")
        raise LookupError("mine")

    async with opened() as vault:
        await vault.run(put(GRANT, Counter(1, 1)))
        with pytest.raises(LookupError, match="mine"):
            await vault.run(step)
        assert await vault.run(lambda tx: tx.select(Grant)) == [GRANT]
        assert await vault.run(lambda tx: tx.get(Counter, 1)) == Counter(1, 1)
    async with opened() as vault:
        assert await vault.run(lambda tx: tx.select(Grant)) == [GRANT]


async def test_a_data_key_made_by_a_failed_step_is_not_used_afterwards(opened: Opened) -> None:
    def step(tx: Transaction) -> None:
        tx.put(GRANT)
        raise LookupError

    async with opened() as vault:
        with pytest.raises(LookupError):
            await vault.run(step)
        await vault.run(lambda tx: tx.put(GRANT))
    async with opened() as vault:
        assert await vault.run(lambda tx: tx.get(Grant, "g1")) == GRANT


async def test_steps_run_in_the_order_of_calls(opened: Opened) -> None:
    def step(number: int) -> Callable[[Transaction], int]:
        def inner(tx: Transaction) -> int:
            tx.put(Counter(number, len(tx.select(Counter))))
            return number

        return inner

    async with opened() as vault:
        assert await asyncio.gather(*(vault.run(step(number)) for number in range(30))) == list(range(30))
        rows = await vault.run(lambda tx: tx.select(Counter))
    assert rows == [Counter(number, number) for number in range(30)]


async def test_a_step_that_was_handed_over_is_kept_though_its_caller_is_cancelled(opened: Opened) -> None:
    async with opened() as vault:
        task = asyncio.create_task(vault.run(lambda tx: tx.put(GRANT)))
        await asyncio.sleep(0)  # lets the task hand its step over
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await vault.run(lambda tx: tx.get(Grant, "g1")) == GRANT


async def test_a_caller_cancelled_before_it_began_leaves_nothing(opened: Opened) -> None:
    async with opened() as vault:
        task = asyncio.create_task(vault.run(lambda tx: tx.put(GRANT)))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await vault.run(lambda tx: tx.select(Grant)) == []


async def test_a_transaction_is_dead_once_its_step_has_returned(opened: Opened) -> None:
    async with opened() as vault:
        kept = await vault.run(lambda tx: tx)
        for use in (
            lambda: kept.put(GRANT),
            lambda: kept.get(Grant, "g1"),
            lambda: kept.select(Grant),
            lambda: kept.delete(Grant, "g1"),
            lambda: kept.erase_key("g1"),
        ):
            with pytest.raises(RuntimeError, match="after its step"):
                use()
        assert await vault.run(lambda tx: tx.select(Grant)) == []


async def test_a_coroutine_is_not_a_step(opened: Opened) -> None:
    async def step(tx: Transaction) -> None:
        tx.put(GRANT)

    given: Callable[[Transaction], object] = step
    async with opened() as vault:
        with pytest.raises(TypeError, match="plain function"):
            await vault.run(given)


async def test_put_replaces_the_record_of_the_same_key(opened: Opened) -> None:
    async with opened() as vault:
        await vault.run(lambda tx: tx.put(GRANT))
        newer = Grant("g1", 2, RefreshToken("its successor"))
        await vault.run(lambda tx: tx.put(newer))
        assert await vault.run(lambda tx: tx.select(Grant)) == [newer]


async def test_delete_removes_one_and_does_not_mind_absence(opened: Opened) -> None:
    def delete(tx: Transaction) -> None:
        tx.delete(Counter, 1)
        tx.delete(Counter, 7)

    async with opened() as vault:
        await vault.run(put(*(Counter(n, n) for n in range(3))))
        await vault.run(delete)
        assert await vault.run(lambda tx: tx.select(Counter)) == [Counter(0, 0), Counter(2, 2)]


async def test_an_erased_key_leaves_its_secrets_unreadable_and_the_others_alone(opened: Opened) -> None:
    other = Grant("g2", 1, RefreshToken("another"))
    async with opened() as vault:
        await vault.run(put(GRANT, other))
        await vault.run(lambda tx: tx.erase_key("g1"))
        with pytest.raises(CorruptVaultError, match="erased"):
            await vault.run(lambda tx: tx.get(Grant, "g1"))
    async with opened() as vault:
        with pytest.raises(CorruptVaultError, match="erased"):
            await vault.run(lambda tx: tx.select(Grant, grant_id="g1"))
        assert await vault.run(lambda tx: tx.get(Grant, "g2")) == other
        await vault.run(lambda tx: tx.delete(Grant, "g1"))
        assert await vault.run(lambda tx: tx.select(Grant)) == [other]


async def test_a_key_made_again_under_an_erased_name_does_not_open_old_secrets(opened: Opened) -> None:
    async with opened() as vault:
        await vault.run(lambda tx: tx.put(Shared("old", "k", TOKEN)))
        await vault.run(lambda tx: tx.erase_key("k"))
        await vault.run(lambda tx: tx.put(Shared("new", "k", TOKEN)))
        assert await vault.run(lambda tx: tx.get(Shared, "new")) == Shared("new", "k", TOKEN)
        with pytest.raises(CorruptVaultError):
            await vault.run(lambda tx: tx.get(Shared, "old"))


async def test_the_vaults_own_key_cannot_be_erased_nor_borrowed(opened: Opened) -> None:
    def erase(name: str) -> Callable[[Transaction], None]:
        return lambda tx: tx.erase_key(name)

    async with opened() as vault:
        for name in ("vault", "", "x" * 129):
            with pytest.raises(ValueError, match="data key"):
                await vault.run(erase(name))
        with pytest.raises(ValueError, match="data key"):
            await vault.run(lambda tx: tx.put(Grant("vault", 1, TOKEN)))
        await vault.run(lambda tx: tx.erase_key("never made"))


async def test_a_record_without_its_secret_needs_no_key(opened: Opened) -> None:
    bare = Grant("g1", 1, None)

    def strip(tx: Transaction) -> None:
        tx.put(bare)
        tx.erase_key("g1")

    async with opened() as vault:
        await vault.run(lambda tx: tx.put(GRANT))
        await vault.run(strip)
        assert await vault.run(lambda tx: tx.get(Grant, "g1")) == bare


async def test_every_kind_of_field_comes_back_as_it_was(opened: Opened) -> None:
    full = Mixed(
        "pëer\0x",
        -(2**63) + 1,
        weight=1e-300,
        is_done=True,
        payload=bytes(range(256)),
        state="old",
        colour=Colour.BLUE,
        note="",
        is_known=False,
        count=2**63 - 1,
        ratio=float("inf"),
        blob=b"",
        token=RefreshToken("tökén"),
        private_key=PrivateKey(b"k" * 32),
    )
    empty = Mixed("", 0)
    async with opened() as vault:
        await vault.run(put(full, empty))
    async with opened() as vault:
        back = await vault.run(lambda tx: tx.get(Mixed, full.peer, full.seq))
        assert back == full
        assert type(back.is_done) is bool
        assert type(back.colour) is Colour
        assert type(back.token) is RefreshToken
        assert await vault.run(lambda tx: tx.get(Mixed, "", 0)) == empty


async def test_an_int_in_a_float_field_comes_back_as_float(opened: Opened) -> None:
    async with opened() as vault:
        await vault.run(lambda tx: tx.put(Mixed("p", 1, weight=3)))
        back = await vault.run(lambda tx: tx.get(Mixed, "p", 1))
    assert back is not None
    assert (back.weight, type(back.weight)) == (3.0, float)


async def test_select_compares_none_bool_and_choices_exactly(opened: Opened) -> None:
    rows = [
        Mixed("a", 1, is_done=True, note=None, is_known=None),
        Mixed("a", 2, is_done=False, note="", is_known=False, state="old"),
        Mixed("b", 1, is_done=True, note="x", is_known=True, colour=Colour.RED),
    ]
    async with opened() as vault:
        await vault.run(put(*rows))

        async def select(**equals: str | int | bool | None) -> list[int]:
            return [rows.index(row) for row in await vault.run(lambda tx: tx.select(Mixed, **equals))]

        assert await select() == [0, 1, 2]
        assert await select(peer="a") == [0, 1]
        assert await select(is_done=True) == [0, 2]
        assert await select(is_done=False) == [1]
        assert await select(note=None) == [0]
        assert await select(note="") == [1]
        assert await select(is_known=None) == [0]
        assert await select(is_known=False) == [1]
        assert await select(colour=None) == [0, 1]
        assert await select(colour=Colour.RED) == [2]
        assert await select(state="old") == [1]
        assert await select(peer="a", seq=2) == [1]
        assert await select(peer="c") == []


async def test_select_is_ordered_by_primary_key(opened: Opened) -> None:
    keys = [("b", 1), ("a", 10), ("a", 9), ("B", 1), ("é", 0), ("", 5), ("a", -1), ("😀", 1), ("\uffff", 1)]
    async with opened() as vault:
        await vault.run(put(*(Mixed(peer, seq) for peer, seq in keys)))
        rows = await vault.run(lambda tx: tx.select(Mixed))
    assert [(row.peer, row.seq) for row in rows] == sorted(keys)  # code points, as UTF-8 octets order them


async def test_large_values_are_kept_and_larger_ones_refused(opened: Opened) -> None:
    row = Mixed("p", 1, payload=b"\0" * VALUE_BYTES_MAX, token=RefreshToken("😀" * 16_384))
    async with opened() as vault:
        await vault.run(lambda tx: tx.put(row))
        assert await vault.run(lambda tx: tx.get(Mixed, "p", 1)) == row
        larger = (
            replace(row, payload=b"\0" * (VALUE_BYTES_MAX + 1)),
            replace(row, note="é" * (VALUE_BYTES_MAX // 2 + 1)),
        )
        for too_large in larger:
            with pytest.raises(ValueError, match="more than"):
                await vault.run(put(too_large))
        assert await vault.run(lambda tx: tx.get(Mixed, "p", 1)) == row


@pytest.mark.parametrize(
    "wrong",
    [
        {"seq": "1"},
        {"seq": True},
        {"seq": 2**63},
        {"seq": None},
        {"weight": float("nan")},
        {"weight": "1"},
        {"is_done": 1},
        {"payload": "text"},
        {"state": "other"},
        {"colour": "green"},
        {"note": b"bytes"},
        {"note": "\ud800"},
        {"note": Colour.RED},
        {"token": "not a secret"},
        {"token": AccessToken("another type")},
    ],
    ids=lambda wrong: "-".join(f"{name}={value!a:.20}" for name, value in wrong.items()),
)
async def test_a_field_that_does_not_hold_what_it_declares_is_refused_before_the_disk(
    opened: Opened, wrong: dict[str, Any]
) -> None:
    async with opened() as vault:
        with pytest.raises((TypeError, ValueError)) as caught:
            await vault.run(lambda tx: tx.put(replace(Mixed("p", 1), **wrong)))
        assert "not a secret" not in str(caught.value)
        assert await vault.run(lambda tx: tx.select(Mixed)) == []


async def test_wrong_questions_are_refused(opened: Opened) -> None:
    async with opened() as vault:
        for step in (
            lambda tx: tx.get(Mixed, "p"),
            lambda tx: tx.get(Counter, "1"),
            lambda tx: tx.delete(Mixed, "p", "1"),
            lambda tx: tx.select(Mixed, unknown=1),
            lambda tx: tx.select(Mixed, token="x"),
            lambda tx: tx.select(Mixed, is_done=1),
            lambda tx: tx.select(Mixed, count=True),
            lambda tx: tx.put(Stranger("x")),
            lambda tx: tx.select(Stranger),
        ):
            with pytest.raises(TypeError):
                await vault.run(step)


async def test_a_secret_never_shows_in_what_the_vault_says(opened: Opened) -> None:
    async with opened() as vault:
        await vault.run(lambda tx: tx.put(Identity("me", PrivateKey(b"S" * 32))))
        with pytest.raises(ValueError, match="1 to 128") as caught:
            await vault.run(lambda tx: tx.put(Grant("x" * 129, 1, RefreshToken("hidden"))))
    assert "hidden" not in repr(caught.value)
    assert "SSSS" not in repr(vault.__dict__)


@dataclass(frozen=True, slots=True)
class Stranger:
    table: ClassVar[str] = "strangers"
    key: ClassVar[tuple[str, ...]] = ("name",)
    sealed_under: ClassVar[str] = "vault"

    name: str
