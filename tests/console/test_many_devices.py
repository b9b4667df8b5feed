"""Two hundred devices: the page comes up without waiting for them, and what needs a person stands on top."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import pytest

from tests.console.console_kit import console
from tests.e2e.kit import World
from token_relay.agents.elapsed import Stamp
from token_relay.agents.ports import Now, Transaction
from token_relay.agents.records import Pairing, PhoneHandoff
from token_relay.host.clock import SystemClock
from token_relay.host.config import PhoneConfig
from token_relay.host.config_file import check_config
from token_relay.host.home import key_source, open_vault
from token_relay.protocol.identity import device_id

pytestmark = pytest.mark.asyncio

DAY_S = 86_400
COUNT = 200


def records(now: Now, number: int) -> tuple[Pairing, PhoneHandoff]:
    """A device with a grant: the last by name has a lease that ends tomorrow, the one before it has lost its grant."""
    age_s = int(88.5 * DAY_S) if number == COUNT - 1 else 60
    stamp = Stamp(now.boot_id, now.boot_s - age_s, now.wall_s - age_s, True).to_text()
    at = int(now.wall_s - age_s)
    key = hashlib.sha256(f"{number}".encode()).digest()
    pairing_id = f"{number:032x}"
    pairing = Pairing(pairing_id, device_id(key), key, f"car {number}", "active", bytes(32), stamp, paired_at=at)
    handoff = PhoneHandoff(
        f"{number:032x}", pairing_id, "", "done", strategy="branch", scope="", lease_days=90, profile="strict",
        account="ann@contoso.example", reason="", device_state="held", done_at=at, created=stamp, created_at=at,
        expires_at=0,
    )  # fmt: skip
    if number == COUNT - 2:
        handoff = replace(handoff, device_state="needs_handoff")
    return replace(pairing, heard=stamp, heard_at=at), handoff


async def test_what_needs_a_person_is_on_top_of_two_hundred_devices() -> None:
    async with World() as world:
        phone = await world.phone(is_running=False)
        config = check_config(PhoneConfig, (phone.home / "config.toml").read_text(), phone.home)
        assert isinstance(config, PhoneConfig), config
        now = SystemClock().now()
        async with await open_vault(
            phone.home, key_source(phone.home, config.vault, {}), "phone", "2026-01-02T03:04:05Z"
        ) as vault:

            def step(tx: Transaction) -> None:
                for number in range(COUNT):
                    for record in records(now, number):
                        tx.put(record)

            await vault.run(step)
        await phone.run()
        await phone.sign_in()
        async with console("phone", phone.home) as mine:
            page = await mine.get()
            rows = re.findall(
                r'<tr id="d-\w+" class="is-(\w+)">.*?title="\w+">([^<]+)</a>.*?</tr>', page.html, re.DOTALL
            )
            assert len(rows) == COUNT and len(page.html) < 300_000
            assert rows[:2] == [("needs_me", f"car {COUNT - 2}"), ("needs_me", f"car {COUNT - 1}")]
            assert "1 d left" in page.text and "Bring online" in page.text and "Hand off" in page.text
            assert "200 devices: 2 need you" in page.text

            # Nobody answers: by the stream's first look all others are silent, and the order is the same.
            places: list[str] = []
            async for name, data in mine.stream("stream"):
                if name == "element" and data["id"].startswith("d-"):
                    places.insert(0, re.findall(r'class="is-(\w+)"', data["html"])[0])
                elif name == "done":
                    break
            assert places == ["needs_me", "needs_me", *["silent"] * (COUNT - 2)]
            asking = await mine.get("?only=needs-me")
            assert asking.html.count("<tr id=") == 2
            refused = await mine.get("?after=elsewhere")
            assert refused.status == 400 and "not in the list any more" in refused.text
