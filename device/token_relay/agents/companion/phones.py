"""The phones of a companion, and which of them is primary: the one whose grants answer where nobody names a phone.

The first phone is primary, and stays so until a person chooses another or forgets it: no phone can make itself primary.
Implements :class:`token_relay.agents.grants.choice.PhoneBook`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from token_relay.agents.device_names import resolve_device
from token_relay.agents.pairings import by_peer
from token_relay.agents.ports import Transaction
from token_relay.agents.records import Pairing, PrimaryPhone
from token_relay.agents.token_source import PRIMARY, NamedPhone, TokenRefused
from token_relay.agents.turn import Turn
from token_relay.protocol.errors import LocalError

SELF = "self"
LIST = "token-relay companion status"
CHOOSE = "token-relay companion primary PHONE, or name the phone in the question"


class Phones:
    """The phones of one companion, as its vault has them."""

    def among(self, tx: Transaction, phones: frozenset[str]) -> Mapping[str, NamedPhone] | TokenRefused | None:
        """Return the pairings whose grants may answer, with their phones."""
        pairings = tx.select(Pairing)
        known = phones_of(pairings, tx.get(PrimaryPhone, SELF))
        if not known:
            return None
        primary = next((phone.device_id for phone in known.values() if phone.is_primary), "")
        if phones == PRIMARY and not primary:
            return TokenRefused("not_found", "no phone is primary, and the question names none", CHOOSE)
        wanted = {device_id or primary for device_id in phones}
        return {row.pairing_id: known[row.peer_id] for row in pairings if row.peer_id in wanted & known.keys()}

    def find(self, tx: Transaction, word: str) -> NamedPhone | TokenRefused:
        """Return the phone that a program names."""
        try:
            return named(tx, word)
        except LocalError as exc:
            return TokenRefused("not_found", str(exc), exc.hint)


def phones_of(pairings: Iterable[Pairing], primary: PrimaryPhone | None) -> dict[str, NamedPhone]:
    """Return the phones by id; their names are those of the newest pairing."""
    primary_id = primary.peer_id if primary is not None else ""
    return {
        peer_id: NamedPhone(peer_id, row.peer_name, peer_id == primary_id) for peer_id, row in by_peer(pairings).items()
    }


def named(tx: Transaction, word: str) -> NamedPhone:
    """Return the phone that a person names. Raises LocalError: there is none, or there are several."""
    known = phones_of(tx.select(Pairing), tx.get(PrimaryPhone, SELF))
    return known[resolve_device(word, [(phone.device_id, phone.name) for phone in known.values()], lists=LIST)]


def make_primary(turn: Turn, device_id: str) -> None:
    """Make a phone primary; empty: none is."""
    turn.tx.put(PrimaryPhone(SELF, device_id, turn.wall))
    turn.event("primary_phone_chosen" if device_id else "primary_phone_forgotten", device=device_id)


def choose_oldest(turn: Turn) -> None:
    """At the start: a vault from before there were primary phones gets the phone of its oldest active pairing."""
    if turn.tx.get(PrimaryPhone, SELF) is not None:
        return
    rows = sorted(turn.tx.select(Pairing, state="active"), key=lambda row: (row.paired_at, row.pairing_id))
    if rows:
        make_primary(turn, rows[0].peer_id)


def note_activated(turn: Turn, pairing: Pairing) -> None:
    """A pairing is active: its phone becomes primary when none is, and there is no other."""
    primary = turn.tx.get(PrimaryPhone, SELF)
    others = phones_of(turn.tx.select(Pairing), None).keys() - {pairing.peer_id}
    if primary is None or (not primary.peer_id and not others):
        make_primary(turn, pairing.peer_id)


def note_forgotten(turn: Turn, device_id: str) -> None:
    """A phone is forgotten: no other takes its place by itself."""
    primary = turn.tx.get(PrimaryPhone, SELF)
    if primary is not None and primary.peer_id == device_id:
        make_primary(turn, "")
