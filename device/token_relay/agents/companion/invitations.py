"""The companion's side of pairing: one open invitation, its mailbox, and the pairing that comes of it.

The invitation lives in memory: after a restart the person shows a new one. It ends with the first PAIR1 that
authenticates, with three that do not, or after ten minutes of boot time. A repeated PAIR1 (the same bytes) gets the
same PAIR2 again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from token_relay.agents.companion.phones import note_activated
from token_relay.agents.device_names import free_name, is_name
from token_relay.agents.elapsed import Stamp, elapsed_s
from token_relay.agents.pairings import delete_pairing, names_of, retire_others
from token_relay.agents.records import Pairing
from token_relay.agents.renaming import given_name, own_name
from token_relay.agents.turn import Turn
from token_relay.agents.turns import Turns
from token_relay.protocol import pairing as wire
from token_relay.protocol.errors import LocalError, PeerError
from token_relay.protocol.identity import KeyPair, device_id
from token_relay.protocol.messages import Pair3, Pair4
from token_relay.protocol.topics import mailbox_topic


@dataclass(slots=True)
class _Open:
    """The present invitation, with PAIR1 and PAIR2 once they have passed."""

    invitation: wire.Invitation
    shown_boot_s: float
    bad_tries: int = 0
    pair1: bytes = b""
    pair2: bytes = b""


@dataclass(frozen=True, slots=True)
class Paired:
    """PAIR1 and PAIR2 are done (``is_active`` False), or the pairing is active."""

    device_id: str
    device_name: str
    check_number: str
    is_active: bool


class Invitations:
    """Shows invitations and completes pairings."""

    def __init__(self, turns: Turns, *, name: str, broker_url: str) -> None:
        self._turns = turns
        self._channel = turns.channel
        self._clock = turns.clock
        self._random = turns.random
        self._name = name
        self._broker_url = broker_url if len(broker_url.encode()) <= wire.HINT_BYTES_MAX else ""
        self._open: _Open | None = None
        self.changed = asyncio.Event()
        self.progress: Paired | None = None
        self.ended = ""  # why the last invitation can no longer be used; empty while it can

    async def show(self) -> str:
        """Make a new invitation, which ends the old one, and listen in its mailbox; returns its text."""
        await self.close()
        self._name = await self._turns.read(lambda tx: own_name(tx, self._name))
        secret = wire.PairingSecret(self._random.bytes(wire.SECRET_BYTES))
        invitation = wire.Invitation(self._turns.own.public_key, secret, self._broker_url)
        self._open = _Open(invitation, self._clock.now().boot_s)
        self.progress = None
        self.ended = ""
        await self._channel.subscribe(mailbox_topic(invitation.mailbox_id))
        return invitation.text()

    async def close(self) -> None:
        """End the open invitation, if there is one."""
        if self._open is not None:
            opened, self._open = self._open, None
            await self._channel.unsubscribe(mailbox_topic(opened.invitation.mailbox_id))

    def left_s(self) -> float:
        """Return the seconds until the open invitation expires; 0 when there is none."""
        if self._open is None:
            return 0.0
        return max(0.0, self._open.shown_boot_s + wire.INVITATION_LIFETIME_S - self._clock.now().boot_s)

    async def receive(self, mailbox_id: bytes, payload: bytes) -> None:
        """Take what lies in a mailbox; the pending pairing is durable before PAIR2 leaves.

        Raises PeerError for anything but a good PAIR1; three bad ones end the invitation.
        """
        opened = self._open
        if opened is None or mailbox_id != opened.invitation.mailbox_id:
            raise PeerError("wrong_mailbox")
        if payload == opened.pair2:
            return  # our own, delivered to us as well
        if payload == opened.pair1:
            await self._publish(opened)
            return
        if opened.pair1:
            raise PeerError("invitation_used")
        if self.left_s() <= 0:
            await self._burn("expired")
            raise PeerError("invitation_expired")
        try:
            fields = wire.open_pair1(opened.invitation, payload, static=self._turns.own)
        except PeerError:
            opened.bad_tries += 1
            if opened.bad_tries >= wire.INVITATION_BAD_TRIES_MAX:
                await self._burn("burnt by three bad tries")
            raise
        await self._accept(opened, payload, fields)

    async def _accept(self, opened: _Open, pair1: bytes, fields: wire.Pair1Fields) -> None:
        peer_key = bytes.fromhex(fields.static_key)
        pairing_id = self._random.bytes(16).hex()
        answer = wire.Pair2Fields(
            v=1,
            type="PAIR2",
            static_key=self._turns.own.public_key.hex(),
            name=self._name,
            nonce=self._random.bytes(16).hex(),
            pairing_id=pairing_id,
        )
        fresh = KeyPair.from_random(self._random.bytes(32))
        pair2 = wire.seal_pair2(opened.invitation, pair1, fresh=fresh, nonce=self._random.bytes(24), fields=answer)
        transcript = wire.transcript_hash(opened.invitation, pair1, pair2)
        peer_id = device_id(peer_key)
        opened.pair1, opened.pair2 = pair1, pair2  # used up before anything is sent

        def step(turn: Turn) -> str:
            for old in turn.tx.select(Pairing, state="pending"):
                delete_pairing(turn, old.pairing_id)
            turn.box(peer_key)  # refuses a low-order point before it is stored
            given = given_name(turn.tx, peer_id)
            name = given or free_name(peer_id, fields.name, names_of(turn.tx))
            turn.tx.put(
                Pairing(
                    pairing_id=pairing_id,
                    peer_id=peer_id,
                    peer_key=peer_key,
                    peer_name=name,
                    state="pending",
                    transcript_hash=transcript,
                    created=turn.stamp,
                    own_name=fields.name if is_name(fields.name) else "",
                    is_name_given=given != "",
                )
            )
            return name

        name = await self._turns.run(step)
        self.progress = Paired(peer_id, name, wire.check_number(transcript), is_active=False)
        self.changed.set()
        await self._publish(opened)

    async def _publish(self, opened: _Open) -> None:
        await self._channel.publish(mailbox_topic(opened.invitation.mailbox_id), opened.pair2)

    async def _burn(self, why: str) -> None:
        self.ended = why
        await self.close()
        self.changed.set()

    def on_pair3(self, turn: Turn, pairing: Pairing, body: Pair3) -> None:
        """PAIR3: the peer owns its key and saw our transcript. Activate in this transaction, and answer PAIR4."""
        if bytes.fromhex(body.transcript_hash) != pairing.transcript_hash:
            raise PeerError("wrong_transcript")
        if pairing.state == "pending":
            age = elapsed_s(Stamp.from_text(pairing.created), turn.now)
            if age is None or age > wire.INVITATION_LIFETIME_S:
                raise PeerError("invitation_expired")
            retire_others(turn, pairing)
            turn.change(Pairing, pairing.pairing_id, state="active", paired_at=turn.wall)
            turn.event("paired", device=pairing.peer_id, detail=pairing.peer_name)
            note_activated(turn, pairing)
            turn.after.append(lambda: self._activated(pairing))
        turn.answer(pairing.pairing_id, Pair4(transcript_hash=body.transcript_hash))

    def _activated(self, pairing: Pairing) -> None:
        number = wire.check_number(pairing.transcript_hash)
        self.progress = Paired(pairing.peer_id, pairing.peer_name, number, is_active=True)
        self.changed.set()

    async def wait(self) -> Paired:
        """Wait for the next step of the open invitation.

        Raises:
            LocalError: it can no longer be used, with the reason.
        """
        while not self.changed.is_set():
            left_s = self.left_s()
            if self.progress is None and left_s <= 0:
                await self._burn("expired")
                break
            try:
                async with asyncio.timeout(min(max(left_s, 1.0), 60.0)):
                    await self.changed.wait()
            except TimeoutError:
                if self.progress is not None and left_s <= 0:
                    raise LocalError("the phone did not confirm the check number in time", hint="pair again") from None
        self.changed.clear()
        if self.progress is None:
            raise LocalError(f"the invitation is {self.ended}", hint="show a new one: token-relay companion pair")
        return self.progress
