"""Which local program may have which access token, decided by uid and gid. Pure.

It knows the peer as the kernel named it at connect (``SO_PEERCRED``, unix(7)), the query and the rules. It refuses to
know the process: a pid may belong to another process by now, so it is only logged, never compared.

Invariants:

* *owner and root always may*: they can read the vault and the process's memory anyway; a rule cannot lock them out.
* *rules only add*: one rule alone must cover a query, so that removing a rule, or an entry from one of its lists,
  never widens what a caller may have.
* *a missing parameter asks for everything*: a query without ``scope`` asks for all that the grant has. A rule that
  limits scopes therefore does not cover it; the same holds for ``account``, ``issuer`` and ``audience``.
* *a rule covers the primary phone's grants*, unless it names phones, by their device ids: a name is the phone's own
  choice. A query that names no phone gets those of the rules that cover it.
* *a browser sign-in is a separate right*: a session transfer token signs a browser in as the person, with all that the
  web application lets that person do. A rule gives it only with ``session_transfer = true``.

Limit: all programs of one uid are one program to this policy, and to the kernel's other protections as well.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from token_relay.agents.token_source import PRIMARY, NamedPhone, Peer, TokenQuery, TransferQuery
from token_relay.protocol.errors import ConfigError

POLICY_CHARS_MAX = 65_536
RULES_MAX = 256
ENTRIES_MAX = 64  # in each of a rule's lists
ENTRY_CHARS_MAX = 512
PER_MINUTE_MAX = 600  # ten a second, the limit for every uid anyway
ID_MAX = 2**32 - 2  # (uid_t)-1 means "leave as it is" in chown(2), so no account has it
# The kernel shows this number for every account that a user namespace cannot name (user_namespaces(7), overflowuid):
# a rule for it would be a rule for all of them.
OVERFLOW_ID = 65_534
ROOT_UID = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """Lets one uid or group have tokens. ``None`` for a list means any; where uid and gid are given, both hold."""

    uid: int | None = None
    gid: int | None = None
    accounts: frozenset[str] | None = None
    audiences: frozenset[str] | None = None
    scopes: frozenset[str] | None = None
    session_transfer: bool = False
    per_minute: int | None = None
    issuers: frozenset[str] | None = None
    phones: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if self.uid is None and self.gid is None:
            raise ValueError("a rule names a uid or a gid")

    def names(self, peer: Peer) -> bool:
        """Whether the rule is about this peer at all."""
        return (self.uid is None or self.uid == peer.uid) and (
            self.gid is None or self.gid == peer.gid or self.gid in peer.groups
        )

    def exceeded_by(self, query: TokenQuery | TransferQuery, phone: NamedPhone | None = None) -> Iterator[str]:
        """Yield the parameters in which the query asks for more than the rule gives.

        A rule's scopes do not limit a browser: the web application decides what it may do there.
        """
        if self.accounts is not None and not (query.account and query.account in self.accounts):
            yield "account"
        if self.issuers is not None and not (query.issuer and query.issuer in self.issuers):
            yield "issuer"
        if phone is not None and not (phone.is_primary if self.phones is None else phone.device_id in self.phones):
            yield "phone"
        if self.audiences is not None and not (query.audience and query.audience in self.audiences):
            yield "audience"
        if isinstance(query, TransferQuery):
            if not self.session_transfer:
                yield "session_transfer"
        elif self.scopes is not None:
            asked = frozenset(query.scope.split())
            if not asked or not asked <= self.scopes:
                yield "scope"


@dataclass(frozen=True, slots=True)
class Policy:
    """All rules of one agent; ``owner_uid`` is the uid that it runs as, ``file`` where the rules come from, if any."""

    owner_uid: int
    rules: tuple[Rule, ...] = ()
    file: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Allowed:
    """The token may be given; ``by`` says why, for the log; ``per_minute`` limits how often, None for no limit.

    ``phones`` are those whose grants may answer, as :class:`token_relay.agents.token_source.TokenQuery` has them.
    """

    by: str
    per_minute: int | None = None
    phones: frozenset[str] = PRIMARY


@dataclass(frozen=True, slots=True)
class DeniedBecause:
    """The token may not be given; ``line_to_add`` is the TOML that would allow exactly this query."""

    detail: str
    line_to_add: str


def decide(
    policy: Policy, peer: Peer, query: TokenQuery | TransferQuery, phone: NamedPhone | None = None
) -> Allowed | DeniedBecause:
    """Say whether this peer may have what the query asks for: an access token, or a session transfer token.

    ``phone`` is the one that the query names, or that the token is of.
    """
    named = None if phone is None else frozenset({phone.device_id})
    if peer.uid in (policy.owner_uid, ROOT_UID):
        return Allowed("owner" if peer.uid == policy.owner_uid else "root", phones=named or PRIMARY)
    exceeded: dict[str, None] = {}
    allowed: list[Allowed] = []
    for number, rule in enumerate(policy.rules, start=1):
        if not rule.names(peer):
            continue
        missing = tuple(rule.exceeded_by(query, phone))
        if not missing:
            phones = PRIMARY if rule.phones is None else rule.phones
            allowed.append(Allowed(f"rule {number}", rule.per_minute, named or phones))
        exceeded.update(dict.fromkeys(missing))
    if allowed:  # the most generous of several: a rule never narrows what another gives for the same phones
        best = {found.phones: found for found in sorted(allowed, key=_generosity)}
        strictest = min(best.values(), key=_generosity)
        return replace(strictest, phones=frozenset[str]().union(*best))
    line = _line_to_add(peer, query, phone)
    if peer.uid == OVERFLOW_ID:
        return DeniedBecause("the kernel cannot name the caller's uid (it shows 65534), so no rule can", "")
    if not exceeded:
        return DeniedBecause(f"the policy has no rule for uid {peer.uid}", line)
    return DeniedBecause(
        f"the policy limits {', '.join(exceeded)} for uid {peer.uid}; this call asks for more, or names none", line
    )


def _generosity(found: Allowed) -> float:
    return math.inf if found.per_minute is None else found.per_minute


def _line_to_add(peer: Peer, query: TokenQuery | TransferQuery, phone: NamedPhone | None) -> str:
    lines = ["[[allow]]", f"uid = {peer.uid}"]
    if query.account:
        lines.append(f"accounts = [{_toml(query.account)}]")
    if query.audience:
        lines.append(f"audiences = [{_toml(query.audience)}]")
    if query.issuer:
        lines.append(f"issuers = [{_toml(query.issuer)}]")
    if phone is not None and not phone.is_primary:
        lines.append(f"phones = [{_toml(phone.device_id)}]")
    if isinstance(query, TransferQuery):
        lines.append("session_transfer = true")
    elif query.scope:
        lines.append(f"scopes = [{', '.join(_toml(scope) for scope in sorted(set(query.scope.split())))}]")
    return "\n".join(lines)


def _toml(text: str) -> str:
    """Spell a TOML basic string; JSON's escapes are TOML's, except that TOML wants DEL escaped as well."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


# -- TOML --------------------------------------------------------------------------------------------------

_Id = Annotated[int, Field(ge=0, le=ID_MAX)]
_Entry = Annotated[str, Field(min_length=1, max_length=ENTRY_CHARS_MAX)]
_DeviceId = Annotated[str, Field(pattern=r"^[a-z2-7]{26}$")]
_Entries = Annotated[list[_Entry], Field(min_length=1, max_length=ENTRIES_MAX)]


class _RuleModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    uid: _Id | None = None
    gid: _Id | None = None
    accounts: _Entries | None = None
    audiences: _Entries | None = None
    scopes: _Entries | None = None
    issuers: _Entries | None = None
    phones: Annotated[list[_DeviceId], Field(min_length=1, max_length=ENTRIES_MAX)] | None = None
    session_transfer: bool = False
    per_minute: Annotated[int, Field(ge=1, le=PER_MINUTE_MAX)] | None = None

    @model_validator(mode="after")
    def _names_somebody(self) -> _RuleModel:
        if self.uid is None and self.gid is None:
            raise ValueError("give uid or gid")
        if OVERFLOW_ID in (self.uid, self.gid):
            raise ValueError("65534 stands for every account that the kernel cannot name; it cannot be allowed")
        return self


class _PolicyModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    allow: Annotated[list[_RuleModel], Field(max_length=RULES_MAX)] = []


def parse_policy(text: str, *, file: str, owner_uid: int) -> Policy:
    """Read the rules ``[[allow]] uid = … / gid = …, accounts, issuers, audiences, scopes, phones, …``.

    An empty text has none.

    The caller has made sure that only root and the agent's user can write the file.

    Raises:
        ConfigError: not TOML, too long, or an unknown or wrong key; the message names file and key.
    """
    if len(text) > POLICY_CHARS_MAX:
        raise ConfigError(f"{file}: policy is longer than {POLICY_CHARS_MAX} characters")
    try:
        document = tomllib.loads(text)
    except RecursionError as exc:
        raise ConfigError(f"{file}: nested too deeply") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{file}: not TOML: {str(exc)[:200]}") from exc
    except ValueError:  # Python's limit for the digits of an integer
        raise ConfigError(f"{file}: not TOML: a number has too many digits") from None
    try:
        model = _PolicyModel.model_validate(document)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        raise ConfigError(f"{file}: {_where(first['loc'])}: {first['msg'].lower()}") from exc
    return Policy(owner_uid, tuple(_rule(rule) for rule in model.allow), file)


def _rule(model: _RuleModel) -> Rule:
    def limit(entries: list[str] | None) -> frozenset[str] | None:
        return None if entries is None else frozenset(entries)

    return Rule(
        model.uid,
        model.gid,
        limit(model.accounts),
        limit(model.audiences),
        limit(model.scopes),
        model.session_transfer,
        model.per_minute,
        limit(model.issuers),
        limit(model.phones),
    )


def _where(location: tuple[int | str, ...]) -> str:
    """Spell a place, counting from 1: ``allow[2].uid`` is the second rule's."""
    text = ""
    for part in location:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part[:64]}"
    return text.lstrip(".") or "top level"
