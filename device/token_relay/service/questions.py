"""What a person is asked before a device loses something: which device, and what follows; what a loss leaves to do.

Pure. The agent asks (:func:`token_relay.service.commands.confirm`), so that every way to it asks alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import quote

from token_relay.agents.device_names import shown
from token_relay.agents.phone.handoff_rows import LIVE
from token_relay.agents.records import Grant, Pairing, PhoneHandoff

NAMED_MAX = 2  # accounts, or phones, in a question; a command line shows 512 characters of it
ACCOUNT_CHARS_MAX = 64  # of an account's name, which its provider or another phone chose


def live_of(rows: Iterable[PhoneHandoff]) -> list[PhoneHandoff]:
    """Return the handoffs by which a device has something, or may have."""
    return [row for row in rows if row.state in LIVE]


def revoke_question(pairing: Pairing, live: Sequence[PhoneHandoff]) -> str:
    """Ask before `phone revoke`."""
    again = "another handoff gives one again"
    if any(row.strategy != "branch" for row in live):
        again += ", and you sign in for it"
    return f"revoke {_device(pairing)}? it loses {_grants_of(row.account for row in live)}; {again}"


def unpair_question(pairing: Pairing, live: Sequence[PhoneHandoff]) -> str:
    """Ask before `phone unpair`."""
    loses = f"it loses {_grants_of(row.account for row in live)}; " if live else ""
    return f"unpair {_device(pairing)}? {loses}it must be paired again before it can get a grant"


def forget_question(pairing: Pairing, live: Sequence[PhoneHandoff]) -> str:
    """Ask before `phone forget`."""
    if not live:
        return f"forget {_device(pairing)}? it is not told, and must be paired again before it can get a grant"
    leased = [row.lease_days for row in live]
    until = "without end" if 0 in leased else f"for up to {max(leased)} days, until its lease ends"
    is_revoked = all(row.state == "revoking" for row in live)
    after = "it has not confirmed the revocation" if is_revoked else "`phone revoke` takes it away"
    return (
        f"forget {_device(pairing)} without telling it? {_grants_of(row.account for row in live)} "
        f"goes on working there {until}; {after}"
    )


def erase_question(grants: Sequence[Grant], pairings: Sequence[Pairing], *, with_pairings: bool) -> str:
    """Ask before `companion forget`, of everything or of one phone."""
    what = _grants_of(grant.account for grant in grants) if grants else "what is left here"
    phones = sorted({_device(pairing) for pairing in pairings})
    also = f" and the pairing with {_named(phones, ', ', 'phones')}" if with_pairings and phones else ""
    after = "pair again" if with_pairings else "hand off again"
    return f"erase {what}{also}? apps get no token of it any more; to have one again, {after}"


def lost_steps(device_id: str, live: Sequence[PhoneHandoff], *, pending: bool) -> list[str]:
    """Return all that can be done about a lost device, first what is done already."""
    told = "REVOKE is queued and goes out whenever the device connects"
    steps = [
        f"done: {told}" if pending else "done: the device has confirmed that it erased its grants",
        "done: this phone gives it no lease and no renewal any more",
    ]
    steps += [f"to do, by an administrator: {at}" for at in sorted({_at_the_provider(row) for row in live})]
    steps.append(f"to do, where the broker uses certificates: token-relay certs revoke {device_id} --dir DIRECTORY")
    steps.append("known: an access token that it has already got works until its end")
    return steps


def _at_the_provider(row: PhoneHandoff) -> str:
    match row.profile:
        case "entra":  # an id_token's subject names the person to its client alone, and Graph wants their object id
            return (
                f"end all sessions of {row.account}: "
                f"POST https://graph.microsoft.com/v1.0/users/{row.user_id or 'OBJECT-ID'}/revokeSignInSessions"
            )
        case "auth0":
            user = quote(row.subject, safe="") or "USER-ID"
            return (
                f"revoke the refresh tokens of {row.account}: "
                f"DELETE {row.issuer.rstrip('/')}/api/v2/users/{user}/refresh-tokens"
            )
        case _:
            return f"revoke the refresh tokens of {row.account or row.subject} at {row.issuer}"


def account_text(account: str) -> str:
    """Return an account so short that a question stays whole: its end says what follows, and is cut off else."""
    name = account or "an account without a name"
    return name if len(name) <= ACCOUNT_CHARS_MAX else f"{name[:ACCOUNT_CHARS_MAX]}…"


def _device(pairing: Pairing) -> str:
    return shown(pairing.peer_id, pairing.peer_name)


def _grants_of(accounts: Iterable[str]) -> str:
    return f"the grant of {_named([account_text(name) for name in sorted(set(accounts))], ' and that of ', 'accounts')}"


def _named(names: Sequence[str], between: str, what: str) -> str:
    more = [f"{len(names) - NAMED_MAX} more {what}"] if len(names) > NAMED_MAX else []
    return between.join([*names[:NAMED_MAX], *more])
