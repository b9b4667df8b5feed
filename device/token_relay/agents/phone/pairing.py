"""The phone's side of pairing: it reads an invitation, speaks in its mailbox, has the check number confirmed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from token_relay.agents.device_names import NAME_RULE, is_name, name_problem
from token_relay.agents.pairings import delete_pairing, names_of
from token_relay.agents.records import Pairing, PhoneHandoff
from token_relay.agents.refused import RefusedMessages
from token_relay.agents.renaming import given_name, own_name
from token_relay.agents.turn import Turn
from token_relay.agents.turns import Turns
from token_relay.protocol import pairing as wire
from token_relay.protocol.errors import LocalError, PeerError, PersonNeededError, TransientError
from token_relay.protocol.identity import KeyPair, device_id
from token_relay.protocol.messages import Pair3
from token_relay.protocol.topics import mailbox_topic

PAIR1_EVERY_S = 2.0  # the bytes are the same each time, so the companion answers the same
PAIR1_WAIT_S = 60.0
PAIR4_WAIT_S = 60.0
NAMES_MAX = 8  # that a person may type for one device; none fits by then: something else is wrong

AGAIN = "pair again with a new invitation: token-relay phone pair"
ENDED: dict[wire.EndReason, str] = {
    "other": "this invitation can no longer be used",
    "used": "this invitation was used already, {ago} ago",
    "declined": "this invitation was declined on a phone {ago} ago",
    "expired": "this invitation expired {ago} ago",
    "bad_tries": "this invitation was burnt by three bad tries {ago} ago",
    "replaced": "a newer invitation replaced this one {ago} ago",
}

Confirm = Callable[[str, str], Awaitable[bool]]
Rename = Callable[[str], Awaitable[str | None]]
Waiting = Callable[[], Awaitable[None]]


async def _silent() -> None:
    """Tell nobody."""


class NoAnswerError(TransientError):
    """No companion answered; ``broker`` is the address in its invitation, or empty."""

    def __init__(self, broker: str) -> None:
        super().__init__(
            "the companion did not answer", hint="is its agent running? there: token-relay companion status"
        )
        self.broker = broker


class _NotConfirmedError(PersonNeededError):
    """The person says that the numbers differ."""


class PhonePairing:
    """Pairs with one companion at a time."""

    def __init__(self, turns: Turns, *, name: str) -> None:
        self._turns = turns
        self._channel = turns.channel
        self._clock = turns.clock
        self._refused = RefusedMessages(turns)
        self._random = turns.random
        self._name = name
        self._lock = asyncio.Lock()
        self._mailbox = b""
        self._inbox: asyncio.Queue[bytes] = asyncio.Queue(maxsize=64)  # more is noise and dropped; PAIR1 asks again
        self._active: dict[str, asyncio.Event] = {}
        self.replaced = asyncio.Event()  # an older pairing with the same device may be over

    async def receive(self, mailbox_id: bytes, payload: bytes) -> None:
        """Take what lies in a mailbox, into memory. Raises PeerError when nobody waits for it, or too much is there."""
        if mailbox_id != self._mailbox or self._inbox.full():
            raise PeerError("wrong_mailbox")
        self._inbox.put_nowait(payload)

    def activated(self, pairing_id: str) -> None:
        """PAIR4 is committed: wake the command that waits for it, and whoever clears up."""
        self.replaced.set()
        if event := self._active.get(pairing_id):
            event.set()

    async def pair(
        self, text: str, confirm: Confirm, *, name: str = "", rename: Rename | None = None, waiting: Waiting = _silent
    ) -> Pairing:
        """Pair with the companion that shows this invitation; durable on both ends when it returns.

        ``confirm`` gets the check number and the device name, and returns whether the person agrees. ``name`` is what
        the device is called here, if not as it calls itself. ``rename`` gets why a name cannot be used, and returns
        another, or None. ``waiting`` is told when the companion's answer is waited for.

        Raises:
            PeerError, LocalError: not this invitation, or not this name. PersonNeededError: the person does not agree,
                or the invitation is over.
            NoAnswerError: nobody answered. TransientError: PAIR3 is queued, and pairing completes by itself.
        """
        invitation = wire.Invitation.from_text(text)
        async with self._lock:
            if name:  # before the invitation is used up
                problem = "" if is_name(name) else NAME_RULE
                if problem := problem or await self._name_problem(device_id(invitation.public_key), name):
                    raise LocalError(problem, hint="use another name after --as")
            answer, transcript = await self._exchange(invitation, waiting)
            try:
                if not await confirm(wire.check_number(transcript), answer.name):
                    raise _NotConfirmedError("the check number was not confirmed", hint=AGAIN)
                peer_id = device_id(invitation.public_key)
                given = name or await self._turns.read(lambda tx: given_name(tx, peer_id))
                called = await self._name_of(peer_id, given or answer.name, rename)
            except BaseException as exc:  # also when the command is interrupted
                note = wire.seal_declined(invitation, transcript, _decline_reason(exc))
                self._turns.spawn(self._channel.publish(mailbox_topic(invitation.mailbox_id), note))
                raise
            return await self._confirm(answer, transcript, called, is_given=given != "" or called != answer.name)

    async def _name_problem(self, peer_id: str, name: str) -> str:
        return await self._turns.read(lambda tx: name_problem(peer_id, name, names_of(tx)))

    async def _name_of(self, peer_id: str, name: str, rename: Rename | None) -> str:
        """Return what a device is called from now on: this, or what the person types where it could mean another."""
        problem = ""
        for _ in range(NAMES_MAX):
            if not (problem := await self._name_problem(peer_id, name)):
                return name
            name = (await rename(problem) if rename is not None else None) or ""
            if not is_name(name):
                break
        raise LocalError(problem, hint="pair again: token-relay phone pair --as NAME")

    async def _exchange(self, invitation: wire.Invitation, waiting: Waiting) -> tuple[wire.Pair2Fields, bytes]:
        """Say PAIR1 and wait for PAIR2; returns that with the transcript's hash."""
        channel = self._channel
        if not channel.is_connected:
            raise TransientError("the broker is not connected", hint="token-relay phone doctor")
        if invitation.public_key == self._turns.own.public_key:
            raise LocalError(
                "this is an invitation of this very device", hint="on the companion: token-relay companion pair"
            )
        fresh = KeyPair.from_random(self._random.bytes(32))
        fields = wire.Pair1Fields(
            v=1,
            type="PAIR1",
            static_key=self._turns.own.public_key.hex(),
            name=await self._turns.read(lambda tx: own_name(tx, self._name)),
            nonce=self._random.bytes(16).hex(),
        )
        pair1 = wire.seal_pair1(invitation, fresh=fresh, nonce=self._random.bytes(24), fields=fields)
        topic = mailbox_topic(invitation.mailbox_id)
        self._mailbox = invitation.mailbox_id
        await channel.subscribe(topic)
        try:
            pair2, answer = await self._await_pair2(invitation, pair1, fresh, waiting)
        finally:
            self._mailbox = b""
            while not self._inbox.empty():
                self._inbox.get_nowait()
            await channel.unsubscribe(topic)
        return answer, wire.transcript_hash(invitation, pair1, pair2)

    async def _await_pair2(
        self, invitation: wire.Invitation, pair1: bytes, fresh: KeyPair, waiting: Waiting
    ) -> tuple[bytes, wire.Pair2Fields]:
        topic = mailbox_topic(invitation.mailbox_id)
        ends_at = self._clock.now().boot_s + PAIR1_WAIT_S
        await waiting()
        while self._clock.now().boot_s < ends_at:
            await self._channel.publish(topic, pair1)
            try:
                async with asyncio.timeout(PAIR1_EVERY_S):
                    while True:
                        payload = await self._inbox.get()
                        if payload == pair1:
                            continue  # our own, delivered to us as well
                        try:
                            if payload[:4] == wire.ENDED_MAGIC:
                                raise _ended(wire.open_ended(invitation, pair1, payload))
                            return payload, wire.open_pair2(invitation, pair1, payload, fresh=fresh)
                        except PeerError as exc:
                            self._refused.tell_of_mailbox(exc)
            except TimeoutError:
                continue
        raise NoAnswerError(invitation.broker)

    async def _confirm(self, answer: wire.Pair2Fields, transcript: bytes, name: str, *, is_given: bool) -> Pairing:
        peer_key = bytes.fromhex(answer.static_key)
        event = self._active[answer.pairing_id] = asyncio.Event()

        def step(turn: Turn) -> None:
            for old in turn.tx.select(Pairing, state="pending"):
                delete_pairing(turn, old.pairing_id)
            before = turn.tx.get(Pairing, answer.pairing_id)
            if before is not None or turn.tx.select(PhoneHandoff, pairing_id=answer.pairing_id):
                raise PeerError("pairing_id_reused")  # or it would inherit the handoffs of a device that was forgotten
            turn.tx.put(
                Pairing(
                    pairing_id=answer.pairing_id,
                    peer_id=device_id(peer_key),
                    peer_key=peer_key,
                    peer_name=name,
                    state="pending",
                    transcript_hash=transcript,
                    created=turn.stamp,
                    own_name=answer.name if is_name(answer.name) else "",
                    is_name_given=is_given,
                )
            )
            turn.request(answer.pairing_id, Pair3(transcript_hash=transcript.hex()))

        try:
            await self._turns.run(step)
            async with asyncio.timeout(PAIR4_WAIT_S):
                await event.wait()
        except TimeoutError:
            raise TransientError(
                "the companion did not confirm the pairing", hint="it completes by itself when the companion is back"
            ) from None
        finally:
            self._active.pop(answer.pairing_id, None)
        return await self._turns.run(lambda turn: turn.row(Pairing, answer.pairing_id))


def _decline_reason(exc: BaseException) -> wire.DeclineReason:
    match exc:
        case _NotConfirmedError():
            return "not_confirmed"
        case LocalError():
            return "name_refused"
        case _:
            return "interrupted"


def _ended(ended: wire.Ended) -> PersonNeededError:
    said = ENDED[ended.reason].format(ago=_span(ended.ago_s))
    return PersonNeededError(said, hint="on the companion: token-relay companion pair")


def _span(seconds: int) -> str:
    """Return a time in its largest unit; the other end's clock counted it."""
    if seconds < 60:
        return "less than a minute"
    return f"{seconds // 60} min" if seconds < 2 * 3600 else f"{seconds // 3600} h"
