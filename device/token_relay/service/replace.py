"""``phone replace``: a new companion takes the place of one that is paired, by the commands that there are.

Pair, hand off, then in one step: revoke and unpair the old one, and give its name away. What was begun is on the disk
(``Pairing.replaced_by`` of the old one), so the command goes on from there when it is run again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

from token_relay.agents.device_names import free_name, name_problem, shown
from token_relay.agents.pairings import names_of, pairing_of, peers
from token_relay.agents.phone.account_choice import is_called
from token_relay.agents.phone.agent import HandoffWish, PhoneAgent
from token_relay.agents.phone.handoff_rows import LIVE
from token_relay.agents.ports import Transaction
from token_relay.agents.records import Pairing, PhoneHandoff
from token_relay.agents.turn import Turn
from token_relay.protocol.errors import LocalError, PersonNeededError
from token_relay.protocol.identity import device_id
from token_relay.protocol.pairing import Invitation
from token_relay.service.actions import action
from token_relay.service.commands import confirm
from token_relay.service.control import JSON, AskKind, Exchange, Handler
from token_relay.service.questions import account_text
from token_relay.service.runtime import text_of

WAIT_S = 10.0  # for the old device to confirm, as `phone revoke` waits


@dataclass(frozen=True, slots=True)
class _Stand:
    """What the disk says: ``new`` is there once it is paired, ``row`` once it has the grant."""

    old: Pairing
    new: Pairing | None
    account: str
    row: PhoneHandoff | None
    before: Pairing | None  # whose place ``old`` itself has taken, and which has not confirmed that yet


def _read(tx: Transaction, word: str, name: str) -> _Stand:
    old, known = pairing_of(tx, word), peers(tx)
    new = known.get(old.replaced_by)
    if name:
        others = [device for device in names_of(tx) if device[0] not in (old.peer_id, old.replaced_by)]
        if problem := name_problem("", name, others):
            raise LocalError(problem, hint="use another name after --as")
    before = next((row for row in known.values() if row.replaced_by == old.peer_id and row.state == "retired"), None)
    had = tx.select(PhoneHandoff, pairing_id=old.pairing_id)
    had.sort(key=lambda row: (row.state in LIVE, row.created_at))
    done = tx.select(PhoneHandoff, pairing_id=new.pairing_id, state="done") if new is not None else []
    held = [row for row in done if row.device_state not in ("needs_handoff", "dead", "locked")]
    return _Stand(old, new, had[-1].account if had else "", held[-1] if held else None, before)


async def run_replace(
    agent: PhoneAgent, pair: Handler, wish: HandoffWish, args: dict[str, JSON], exchange: Exchange
) -> dict[str, JSON]:
    """Do what is left of it; ``pair`` is the command of that name.

    Raises:
        LocalError: no such device, or it is over already. PersonNeededError: the person did not agree, or must sign in.
    """
    word, name = text_of(args, "device"), text_of(args, "as")
    stand = await agent.turns.read(lambda tx: _read(tx, word, name))
    old, new = stand.old, stand.new
    wish = replace(wish, account=wish.account or stand.account)
    if stand.before is not None:
        said = f"{old.peer_name} has taken the place of {stand.before.peer_name}, which has not confirmed that yet"
        return {"pending": True, "message": said, "action": action("bring_device_online", stand.before.peer_name)}
    if old.state != "active":
        raise LocalError("this device is being unpaired", hint="for the other one: token-relay phone pair")
    loses = f"{shown(old.peer_id, old.peer_name)} loses its own and is unpaired"
    follows = f"it gets a grant of {account_text(wish.account) if wish.account else 'your account'}, then {loses}"
    row = stand.row
    if row is not None and row.account and wish.account:  # else a person has handed it another one's in between
        row = row if is_called(wish.account, account=row.account, subject=row.subject) else None
    if new is None or new.state != "active" or _is_of_another(text_of(args, "invitation"), new):
        row = None
        await agent.check_wish(wish, exchange)  # before an invitation is used up
        paired = await pair(*await _pairing(agent, old, follows, args, exchange))
        new_id = str(paired["device_id"])
    else:
        new_id = new.peer_id
        await confirm(args, exchange, f"go on with {shown(new_id, new.peer_name)}? {follows}")
    row = row or await agent.hand_off(new_id, wish, exchange)
    if row.state != "done":
        waits = row.problem or f"waiting for the new companion; {old.peer_name} keeps its grant until then"
        return {"device_id": new_id, "pending": True, "message": waits, "action": action("finish_replacement", word)}
    rows = await agent.replace(old_id=old.peer_id, new_id=new_id, name=name or old.peer_name, wait_s=WAIT_S)
    pending = any(each.state != "gone" for each in rows)
    known = await agent.turns.read(lambda tx: dict(names_of(tx)))
    told = f"; {known.get(old.peer_id)} is told when it connects" if pending else ", which is unpaired"
    return {
        "device_id": new_id,
        "device_name": known[new_id],
        "replaced_id": old.peer_id,
        "handoff_id": row.handoff_id,
        "pending": pending,
        "message": f"{shown(new_id, known[new_id])} has taken the place of {shown(old.peer_id, old.peer_name)}{told}",
        "action": action("bring_device_online", known.get(old.peer_id, "")) if pending else None,
    }


def _is_of_another(invitation: str, new: Pairing) -> bool:
    """Whether a person brings the invitation of another device than the one that they had begun with."""
    return invitation != "" and device_id(Invitation.from_text(invitation).public_key) != new.peer_id


async def _pairing(
    agent: PhoneAgent, old: Pairing, follows: str, args: dict[str, JSON], exchange: Exchange
) -> tuple[dict[str, JSON], Exchange]:
    """Return the arguments and the client of `pair`."""
    text = text_of(args, "invitation")
    text = text or await exchange.ask("invitation", "the new companion's invitation (RTR1:…)") or ""
    if not text.strip():
        raise PersonNeededError("no invitation was given", hint="on the new companion: token-relay companion pair")
    new_id = device_id(Invitation.from_text(text).public_key)
    if new_id == old.peer_id:
        raise LocalError("this is an invitation of the device itself", hint="token-relay phone pair INVITATION")

    def begin(turn: Turn) -> None:
        for row in turn.tx.select(Pairing, peer_id=old.peer_id):
            turn.change(Pairing, row.pairing_id, replaced_by=new_id)

    def name(tx: Transaction) -> str:
        return free_name(new_id, f"{old.peer_name[:48]} (new)", names_of(tx))

    if args.get("yes") is True:
        await agent.turns.run(begin)
    agree, find = partial(agent.turns.run, begin), partial(agent.turns.read, name)
    return {"invitation": text, "yes": args.get("yes") is True}, _Asking(exchange, follows, agree, find)


@dataclass(slots=True)
class _Asking:
    """The client of `pair`: its one question says what follows, and none is about a name, as that comes at the end."""

    exchange: Exchange
    follows: str
    agree: Callable[[], Awaitable[None]]
    find_name: Callable[[], Awaitable[str]]

    @property
    def is_attended(self) -> bool:
        return self.exchange.is_attended

    async def progress(self, step: dict[str, JSON]) -> None:
        await self.exchange.progress(step)

    async def ask(self, kind: AskKind, text: str, **extra: JSON) -> str | None:
        if kind == "device_name":
            return await self.find_name()
        if kind != "confirm":
            return await self.exchange.ask(kind, text, **extra)
        answer = await self.exchange.ask(kind, f"{text} Then {self.follows}", **extra)
        if answer == "yes":
            await self.agree()
        return answer
