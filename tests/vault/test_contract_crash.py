"""What both vaults promise when the power goes, an old image is put back, or the disk is full.

An image is what a device that lost its power would find: for the vault on disk its files as they lie there, journal
included; for the one in memory its snapshot. Power cuts that lose what was not synced: ``test_power_cut.py``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.vault.power import write_image
from tests.vault.samples import GRANT, RECORDS, TOKEN, Counter, Grant, Mixed, Shared, open_vault, put
from token_relay.agents.ports import Record, Transaction, Vault
from token_relay.protocol.errors import VaultError
from token_relay.protocol.secret import RefreshToken
from token_relay.simulation.ports.memory_vault import MemoryVault
from token_relay.vault.errors import CorruptVaultError
from token_relay.vault.store import SqliteVault

pytestmark = pytest.mark.asyncio

OTHER = RefreshToken("another token")
Step = Callable[[Transaction], Any]


class Device(Protocol):
    """A device whose power can be cut."""

    def on(self) -> AbstractAsyncContextManager[Vault]:
        """Switch it on."""
        ...

    def image(self) -> Any:
        """Return what a power cut now would leave; also while a step runs."""
        ...

    def restore(self, image: Any) -> None:
        """Put an image back, while it is off."""
        ...

    def full(self, vault: Any) -> Any:
        """A context in which the disk takes nothing more."""
        ...


class OnDisk:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def on(self) -> AbstractAsyncContextManager[Vault]:
        return open_vault(self._directory)

    def image(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self._directory.iterdir()}

    def restore(self, image: dict[str, bytes]) -> None:
        write_image(image, self._directory)

    @contextmanager
    def full(self, vault: SqliteVault) -> Iterator[None]:
        def pages_max(count: int) -> None:
            vault._writer.submit(
                lambda: vault._connection.execute(f"PRAGMA max_page_count = {count}").fetchall()
            ).result()

        pages_max(1)  # as many as there are
        yield
        pages_max(1 << 30)


class InMemory:
    def __init__(self) -> None:
        self._vault = MemoryVault(RECORDS)

    @asynccontextmanager
    async def on(self) -> AsyncIterator[Vault]:
        self._vault = MemoryVault(RECORDS, self._vault.snapshot())
        yield self._vault

    def image(self) -> object:
        return self._vault.snapshot()

    def restore(self, image: Any) -> None:
        self._vault.restore(image)

    @contextmanager
    def full(self, vault: MemoryVault) -> Iterator[None]:
        vault.failure = VaultError("no room")
        yield
        vault.failure = None


def make(kind: str, directory: Path) -> Device:
    directory.mkdir(mode=0o700)
    return OnDisk(directory) if kind == "sqlite" else InMemory()


@pytest.fixture(params=["sqlite", "memory"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Device:
    return make(request.param, tmp_path / "home")


def write_all(tx: Transaction) -> None:
    """Change something of every kind."""
    tx.put(Grant("g1", 2, OTHER))
    tx.put(Shared("s", "k", TOKEN))
    tx.delete(Counter, 1)
    tx.erase_key("g0")
    tx.put(Mixed("p", 1, payload=bytes(200_000)))


def begin(tx: Transaction) -> None:
    tx.put(GRANT)
    tx.put(Grant("g0", 1, TOKEN))
    tx.put(Counter(1, 1))


def dump(tx: Transaction) -> list[object]:
    """Return all that can be read, and the name of the error where a row does not open."""
    found: list[object] = []
    for record in RECORDS:
        try:
            found.append(tx.select(record))
        except CorruptVaultError:
            found.append("does not open")
    return found


# -- power ------------------------------------------------------------------------------------------------


async def test_a_crash_at_any_point_of_a_step_leaves_the_state_before_it(device: Device) -> None:
    images = []

    def step(tx: Transaction) -> None:
        images.append(device.image())
        tx.put(Grant("g1", 2, OTHER))
        images.append(device.image())
        write_all(tx)
        images.append(device.image())

    async with device.on() as vault:
        await vault.run(begin)
        before = await vault.run(dump)
        await vault.run(step)
        after = await vault.run(dump)
    assert len(images) == 3
    for image in images:
        device.restore(image)
        async with device.on() as vault:
            assert await vault.run(dump) == before
            await vault.run(write_all)
            assert await vault.run(dump) == after, "and the step can be made again"


async def test_a_crash_right_after_run_returned_leaves_the_state_after_it(device: Device) -> None:
    images, states = [], []
    async with device.on() as vault:
        for step in (begin, write_all, lambda tx: tx.delete(Grant, "g0")):
            await vault.run(step)
            images.append(device.image())
            states.append(await vault.run(dump))
    assert states[0] != states[1] != states[2]
    for image, state in zip(images, states, strict=True):
        device.restore(image)
        async with device.on() as vault:
            assert await vault.run(dump) == state


async def test_an_older_image_opens_like_the_true_one_and_goes_on_from_there(device: Device) -> None:
    async with device.on() as vault:
        await vault.run(begin)
        old, state = device.image(), await vault.run(dump)
        await vault.run(write_all)
    device.restore(old)
    async with device.on() as vault:
        assert await vault.run(dump) == state
        await vault.run(lambda tx: tx.put(Grant("g1", 7, OTHER)))
    async with device.on() as vault:
        assert await vault.run(lambda tx: tx.get(Grant, "g1")) == Grant("g1", 7, OTHER)
        assert await vault.run(lambda tx: tx.select(Shared)) == [], "nothing of the newer one shines through"


async def test_an_erased_key_stays_erased_when_the_newer_image_comes_back(device: Device) -> None:
    async with device.on() as vault:
        await vault.run(begin)
        old = device.image()
        await vault.run(lambda tx: tx.erase_key("g1"))
        new = device.image()
    device.restore(old)
    async with device.on() as vault:
        assert await vault.run(lambda tx: tx.get(Grant, "g1")) == GRANT, "an old backup holds the key"
    device.restore(new)
    async with device.on() as vault:
        with pytest.raises(CorruptVaultError):
            await vault.run(lambda tx: tx.get(Grant, "g1"))
        await vault.run(lambda tx: tx.put(Grant("g1", 3, OTHER)))
        assert await vault.run(lambda tx: tx.get(Grant, "g1")) == Grant("g1", 3, OTHER)


async def test_a_key_erased_by_a_step_that_failed_is_there(device: Device) -> None:
    def step(tx: Transaction) -> None:
        tx.erase_key("g1")
        tx.put(Grant("g1", 9, OTHER))  # under a key made anew
        raise LookupError

    async with device.on() as vault:
        await vault.run(begin)
        for _ in range(2):
            with pytest.raises(LookupError):
                await vault.run(step)
            assert await vault.run(lambda tx: tx.get(Grant, "g1")) == GRANT
    async with device.on() as vault:
        assert await vault.run(lambda tx: tx.get(Grant, "g1")) == GRANT


# -- order and cancelling ---------------------------------------------------------------------------------


async def test_steps_keep_their_order_though_some_raise_and_some_callers_are_cancelled(device: Device) -> None:
    seen: list[int] = []

    def step(number: int) -> Step:
        def inner(tx: Transaction) -> None:
            seen.append(number)
            tx.put(Counter(number, len(tx.select(Counter))))
            if number % 3 == 0:
                raise LookupError(number)

        return inner

    async with device.on() as vault:
        tasks = [asyncio.create_task(vault.run(step(number))) for number in range(20)]
        await asyncio.sleep(0)  # lets them hand their steps over
        for task in tasks[1::4]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        rows = await vault.run(lambda tx: tx.select(Counter))
    assert seen == list(range(20))
    kept = [number for number in range(20) if number % 3]
    assert rows == [Counter(number, at) for at, number in enumerate(kept)]
    for number, result in enumerate(results):
        expected = asyncio.CancelledError if number % 4 == 1 else LookupError if number % 3 == 0 else type(None)
        assert type(result) is expected


# -- a full disk ------------------------------------------------------------------------------------------


async def test_a_full_disk_refuses_the_whole_step_and_the_vault_goes_on_when_there_is_room(device: Device) -> None:
    async with device.on() as vault:
        await vault.run(begin)
        before = await vault.run(dump)
        with device.full(vault):
            for _ in range(3):
                with pytest.raises(VaultError) as caught:
                    await vault.run(write_all)
                assert not isinstance(caught.value, CorruptVaultError)
        assert await vault.run(dump) == before
        full = device.image()
        await vault.run(write_all)
        after = await vault.run(dump)
        assert after != before
    device.restore(full)
    async with device.on() as vault:
        assert await vault.run(dump) == before, "nor did anything reach the disk"


# -- several records of one data key ----------------------------------------------------------------------


async def test_erasing_a_key_takes_every_record_under_it_in_every_table_and_no_other(device: Device) -> None:
    async with device.on() as vault:
        await vault.run(put(Shared("a", "k", TOKEN), Shared("b", "k", OTHER), Grant("k", 1, TOKEN)))
        await vault.run(put(Shared("c", "other", TOKEN), Grant("k2", 1, OTHER)))
        assert await vault.run(lambda tx: len(tx.select(Shared))) == 3
        await vault.run(lambda tx: tx.erase_key("k"))
    async with device.on() as vault:
        reads: tuple[Step, ...] = (
            lambda tx: tx.get(Shared, "a"),
            lambda tx: tx.get(Shared, "b"),
            lambda tx: tx.get(Grant, "k"),
        )
        for read in reads:
            with pytest.raises(CorruptVaultError):
                await vault.run(read)
        with pytest.raises(CorruptVaultError):
            await vault.run(lambda tx: tx.select(Shared, owner="k"))
        assert await vault.run(lambda tx: tx.select(Shared, owner="other")) == [Shared("c", "other", TOKEN)]
        assert await vault.run(lambda tx: tx.get(Grant, "k2")) == Grant("k2", 1, OTHER)


async def test_a_record_put_again_after_the_erasing_does_not_bring_its_neighbour_back(device: Device) -> None:
    def step(tx: Transaction) -> None:
        tx.erase_key("k")
        tx.put(Shared("a", "k", OTHER))
        assert tx.get(Shared, "a") == Shared("a", "k", OTHER)
        with pytest.raises(CorruptVaultError):
            tx.get(Shared, "b")
        tx.put(Counter(1, 1))  # who caught it may go on

    async with device.on() as vault:
        await vault.run(put(Shared("a", "k", TOKEN), Shared("b", "k", TOKEN)))
        await vault.run(step)
    async with device.on() as vault:
        assert await vault.run(lambda tx: (tx.get(Shared, "a"), tx.get(Counter, 1))) == (
            Shared("a", "k", OTHER),
            Counter(1, 1),
        )
        with pytest.raises(CorruptVaultError):
            await vault.run(lambda tx: tx.get(Shared, "b"))
        await vault.run(lambda tx: tx.delete(Shared, "b"))
        assert await vault.run(lambda tx: tx.select(Shared)) == [Shared("a", "k", OTHER)]


async def test_a_record_that_moved_to_another_key_outlives_its_old_one(device: Device) -> None:
    def move(tx: Transaction) -> None:
        tx.put(Shared("a", "k2", TOKEN))
        tx.erase_key("k1")

    async with device.on() as vault:
        await vault.run(put(Shared("a", "k1", TOKEN), Shared("b", "k1", TOKEN)))
        await vault.run(move)
    async with device.on() as vault:
        assert await vault.run(lambda tx: tx.get(Shared, "a")) == Shared("a", "k2", TOKEN)
        with pytest.raises(CorruptVaultError):
            await vault.run(lambda tx: tx.get(Shared, "b"))


# -- both, side by side -----------------------------------------------------------------------------------


def random_step(chance: random.Random) -> Step:
    """Return a step of some changes and questions; it returns its answers, and one in six raises at its end."""
    plan: list[Callable[[Transaction], object]] = []
    names = "abc"
    for _ in range(chance.randrange(1, 6)):
        name, owner, number = chance.choice(names), chance.choice("kl"), chance.randrange(4)
        token = chance.choice((TOKEN, OTHER))
        record: Record = chance.choice(
            (
                Shared(name, owner, token),
                Grant(owner, number, chance.choice((token, None))),
                Counter(number, chance.randrange(9)),
                Mixed(name, number, token=chance.choice((token, None)), payload=bytes(chance.choice((0, 5000)))),
            )
        )
        plan.append(
            chance.choice(
                (
                    lambda tx, record=record: tx.put(record),
                    lambda tx, record=record: tx.put(record),
                    lambda tx, name=name: tx.delete(Shared, name),
                    lambda tx, number=number: tx.delete(Counter, number),
                    lambda tx, owner=owner: tx.erase_key(owner),
                    lambda tx, name=name: tx.get(Shared, name),
                    lambda tx, owner=owner: tx.select(Shared, owner=owner),
                    lambda tx, owner=owner: tx.get(Grant, owner),
                    lambda tx, name=name: tx.select(Mixed, peer=name),
                )
            )
        )
    fails = chance.random() < 1 / 6

    def step(tx: Transaction) -> list[object]:
        answers: list[object] = []
        for part in plan:
            try:
                answers.append(part(tx))
            except CorruptVaultError:
                answers.append("does not open")
        if fails:
            raise LookupError(answers)
        return answers

    return step


async def history(device: Device, seed: int) -> list[object]:
    """Live through steps, restarts, crashes and restored images; return every answer."""
    chance = random.Random(seed)
    told: list[object] = []
    images: list[Any] = []
    for _ in range(4):
        async with device.on() as vault:
            told.append(await vault.run(dump))
            for _ in range(chance.randrange(1, 10)):
                step, is_full = random_step(chance), chance.random() < 0.1
                try:
                    if is_full:
                        with device.full(vault), pytest.raises(VaultError):
                            await vault.run(lambda tx: tx.put(Mixed("z", 1, payload=bytes(100_000))))
                    told.append(await vault.run(step))
                except LookupError as exc:
                    told.append(exc.args)
                images.append(device.image())
            told.append(await vault.run(dump))
        if chance.random() < 0.7:
            device.restore(chance.choice(images))
    return told


@pytest.mark.parametrize("seed", range(12))
async def test_both_vaults_give_the_same_answers_to_the_same_history(tmp_path: Path, seed: int) -> None:
    on_disk = await history(make("sqlite", tmp_path / "a"), seed)
    in_memory = await history(make("memory", tmp_path / "b"), seed)
    assert len(on_disk) > 10
    for number, (one, other) in enumerate(zip(on_disk, in_memory, strict=True)):
        assert one == other, f"answer {number}"


async def test_the_histories_hold_erased_keys_failed_steps_and_secrets(tmp_path: Path) -> None:
    """Were these missing, sameness would mean little."""
    told = repr([await history(make("memory", tmp_path / str(seed)), seed) for seed in range(12)])
    assert told.count("does not open") > 20
    assert told.count("Shared(") > 40
