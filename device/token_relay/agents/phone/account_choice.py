"""Whose grant: the account that the person names, the only one there is, or the one that they choose when asked.

Nobody is preferred for having signed in last: where several could be meant, the person says which.
"""

from __future__ import annotations

from collections.abc import Sequence

from token_relay.agents.device_names import as_seen
from token_relay.agents.phone.person import Person
from token_relay.agents.records import Grant
from token_relay.protocol.errors import LocalError, PersonNeededError

ALL = "all"
NAME_IT = "--account ACCOUNT"


def is_called(word: str, *, account: str, subject: str) -> bool:
    """Return whether a person's word means this account; e-mail addresses are the same in capitals."""
    return word != "" and (word == subject or word.casefold() == account.casefold())


def name_of(grant: Grant) -> str:
    """Return an account as a person reads it."""
    return grant.account or grant.subject or f"an account without a name at {grant.issuer}"


def person_of(grant: Grant) -> tuple[str, str]:
    """Return what tells the person of a grant from others: a subject is unique at its issuer."""
    return grant.issuer, grant.subject or grant.account


def called(grants: Sequence[Grant], word: str) -> list[Grant]:
    """Return the grants of the account that a person names.

    Raises:
        LocalError: nobody of that name is signed in.
    """
    found = [grant for grant in grants if is_called(word, account=grant.account, subject=grant.subject)]
    if not found:
        names = ", ".join(sorted({name_of(grant) for grant in grants})) or "nobody"
        hint = "token-relay phone sign-in --username U, or --browser" if not grants else NAME_IT
        raise LocalError(f"{word!r} is not signed in on this phone; signed in: {names}", hint=hint)
    return found


async def choose(grants: Sequence[Grant], word: str, person: Person, question: str, *, or_all: bool = False) -> str:
    """Return the id of the grant that the person means, or :data:`ALL`; ``grants``: at least one, the newest last.

    Raises:
        LocalError: nobody of that name is signed in. PersonNeededError: several are, and nobody says which.
    """
    fitting = called(grants, word) if word else grants
    newest = {person_of(grant): grant for grant in fitting}
    if len(newest) == 1:
        return fitting[-1].grant_id
    fitting = sorted(newest.values(), key=lambda grant: (name_of(grant), grant.subject, grant.issuer))
    names = [name_of(grant) for grant in fitting]
    looks = [as_seen(name) for name in names]  # a provider may let people choose them
    choices = [
        {
            "value": grant.grant_id,
            "text": name if looks.count(look) == 1 else f"{name} ({grant.subject or 'no subject'} at {grant.issuer})",
        }
        for grant, name, look in zip(fitting, names, looks, strict=True)
    ]
    choices += [{"value": ALL, "text": "all of them"}] if or_all else []
    chosen = await person.ask("choice", question, choices=choices, hint=NAME_IT)
    if chosen not in {one["value"] for one in choices}:
        raise PersonNeededError("no account was chosen", hint=NAME_IT)
    return chosen
