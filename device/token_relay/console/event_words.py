"""What an agent wrote down, and the messages that passed, in words and in columns. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from token_relay.pages.columns import Column, Happening
from token_relay.pages.words import sentence

Json = Mapping[str, Any]
EVENTS: Mapping[str, str] = {
    "paired": "paired",
    "rejected": "a pairing was refused",
    "device_renamed": "called otherwise",
    "device_replaced": "replaced by another device",
    "device_forgotten": "the device was forgotten",
    "phone_forgotten": "the phone was forgotten",
    "primary_phone_chosen": "made the primary phone",
    "own_name_changed": "this device has another name",
    "rename_refused": "another name was refused",
    "forgotten": "everything here was erased",
    "signed_in": "signed in",
    "signed_out": "signed out",
    "sign_in_refused": "the provider refused the sign-in",
    "sign_in_needed": "a sign-in is needed",
    "imported": "a refresh token was adopted",
    "id_token_unverified": "the signature of the id_token could not be judged",
    "scope_not_granted": "not all of the scope was granted",
    "session_shared": "another sign-in of the same browser session",
    "primary_phone_forgotten": "the primary phone was forgotten",
    "refreshed": "a new access token came",
    "refresh_denied": "the provider refused to refresh",
    "refresh_page": "something else than the provider answered the refresh",
    "refresh_answer_lost": "the answer to a refresh was lost",
    "provider_unavailable": "the provider could not be reached",
    "session_transfer_issued": "a session transfer token came",
    "session_transfer_refused": "the provider refused a session transfer token",
    "token_revoked": "the provider revoked a token",
    "revoked_at_provider": "asked the provider to revoke",
    "behaviour_refuted": "the provider does not behave as it was described",
    "endpoint_barred": "an endpoint is on a host that is not allowed",
    "handoff_offered": "the handoff was offered",
    "handoff_offered: accepted": "the companion has accepted",
    "handoff_released": "the token was given away",
    "handoff_done": "the companion has the grant on its disk",
    "handoff_cancelling": "asked to give the handoff up",
    "handoff_cancelled": "the handoff was given up",
    "handoff_revoking": "told the device to erase the grant",
    "handoff_gone": "the handoff is over",
    "handoff_ready": "ready to receive the grant",
    "handoff_stored": "the grant is stored",
    "handoff_dead": "the handoff is over here",
    "handoff_needed": "another handoff is needed",
    "grant_stored": "the grant is on the disk",
    "grant_refused": "a grant was refused",
    "token_lost": "the companion could not take the token",
    "grant_locked": "the grant is locked",
    "grant_erased": "the grant was erased",
    "lease_ended": "the lease has ended",
    "renewal_asked": "asked for a new grant",
    "renewal_refused": "a new grant was refused",
    "renewal_not_asked": "could not ask for a new grant",
    "message_refused": "a message was refused",
    "late_answer_dropped": "a late answer was dropped",
    "request_given_up": "a request was given up",
    "request_held": "a request waits",
    "request_lost": "a request was lost",
    "orphan_left": "a token is left at the provider",
    "row_damaged": "a row of the vault was damaged",
    "own_rollback_noticed": "this disk is an older image",
    "peer_rollback_noticed": "the other device's disk is an older image",
}
OF_THE_PROVIDER = frozenset(
    {
        *("signed_in", "sign_in_refused", "refreshed", "refresh_denied", "refresh_page", "refresh_answer_lost"),
        *("provider_unavailable", "session_transfer_issued", "session_transfer_refused", "token_revoked"),
        "revoked_at_provider",
    }
)
REFUSALS = frozenset(
    {
        *("rejected", "rename_refused", "sign_in_refused", "sign_in_needed", "refresh_denied", "refresh_page"),
        *("refresh_answer_lost", "provider_unavailable", "session_transfer_refused", "endpoint_barred"),
        *("behaviour_refuted", "handoff_needed", "grant_refused", "grant_locked", "lease_ended", "renewal_refused"),
        *("renewal_not_asked", "message_refused", "request_given_up", "request_lost", "row_damaged", "orphan_left"),
        *("token_lost", "own_rollback_noticed", "peer_rollback_noticed"),
    }
)
MESSAGE_STATES: Mapping[str, str] = {
    "queued": "waits for a connection",
    "not_sent": "not sent: no connection",
    "sent": "sent",
    "at_broker": "sent",
    "accepted": "accepted",
    "duplicate": "was here already",
}


def in_words(event: Json) -> str:
    """Return what an event says; one of a newer agent by its own name."""
    name = str(event.get("name", ""))
    detail = str(event.get("detail", ""))
    if whole := EVENTS.get(f"{name}: {detail}"):
        return whole
    words = EVENTS.get(name, name.replace("_", " "))
    return f"{words}: {detail}" if detail else words


def state_in_words(state: str) -> str:
    """Return what has become of a message."""
    return MESSAGE_STATES.get(state, state.replace("_", " ").replace(":", ": "))


def trace_of(event: Json) -> str:
    """Return the id by which other lines of the same request are found."""
    return str(event.get("trace_id") or event.get("correlation_id") or "")


def happenings(kind: Column, events: Iterable[Json], messages: Iterable[Json]) -> list[Happening]:
    """Return what one end saw; what it did at the provider stands in the provider's column.

    The clock of this machine puts it in order, within one reading a message that came before what it gave rise to.
    """
    other: Column = "companion" if kind == "phone" else "phone"
    found = []
    for row in events:
        name = str(row.get("name"))
        column: Column = "provider" if name in OF_THE_PROVIDER else kind
        who = f"the {kind}: " if column == "provider" else ""
        key, is_bad, at = f"{kind}-e{row['number']:08d}", name in REFUSALS, row.get("moment", row["at"])
        text = sentence(f"{who}{in_words(row)}")
        found.append(Happening(key, at, column, text, trace_id=trace_of(row), is_bad=is_bad, rank=1))
    for row in messages:
        state, key, at, size = str(row.get("state")), f"{kind}-m{row['number']:08d}", row["at"], row["size"]
        words, is_bad = state_in_words(state), state.startswith("refused")
        if row.get("direction") == "in":
            text = f"{row['type']} has come"
            found.append(Happening(key, at, kind, text, bytes=size, state=words, is_bad=is_bad))
            continue
        times = f"sent {row['times']} times" if row.get("times", 1) > 1 else words
        found.append(Happening(key, at, kind, row["type"], to=other, bytes=size, state=times, rank=2))
        if state == "at_broker":
            text = f"{row['type']}, for the {other}"
            found.append(Happening(f"{key}-b", at, "broker", text, bytes=size, rank=3))
    return found
