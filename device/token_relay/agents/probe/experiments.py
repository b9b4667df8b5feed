"""What to try next at a provider nobody knows, and what follows from what was seen. Pure.

:func:`experiments` is a machine: it yields a step, takes what was observed, and ends with a :class:`Measured`. Every
sign-in is sacrificial. What is tried with them, in this order:

1. a refresh: does another refresh token come? And one for less scope.
2. of two more sign-ins, one in the same browser session and one in another, each is refreshed.
3. a used token again, 1, 5, 30 and 310 s after its successor came. What lies between the last that worked and the first
   that was refused is the leeway. The refused one *is* the reuse: which of the three sign-ins live on says how far it
   reaches, and the account's page whether access tokens end too.
4. a revocation, judged by a refresh with the revoked token; again the survivors say how far it reaches.

Neither issuer nor metadata decide: they say only whether there is something to ask. What could not be measured is left
out of the result, so that the profile beneath counts.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from token_relay.protocol.behaviour import LEEWAY_S_MAX, LIFETIME_S_MAX
from token_relay.protocol.errors import TransientError

TRIES_S = (1, 5, 30)
LONG_TRY_S = LEEWAY_S_MAX + 10  # a leeway that a behaviour can say is over by then
LIFE_PAUSE_S = 3  # between two answers, so that a life which shrinks with time can be told from one that starts anew
ACCESS_REST_S = 10  # of an access token's life that must be left for its end to say something
Window = Literal["usual", "private"]
Value = bool | int | str


class TokenAt(NamedTuple):
    """One refresh token: of which sign-in, and the how-manieth of it."""

    sign_in: int
    number: int


@dataclass(frozen=True, slots=True)
class AskSignIn:
    """The person signs in: in the usual browser window, or in a private one that stays open between such sign-ins."""

    number: int
    window: Window


@dataclass(frozen=True, slots=True)
class TryRefresh:
    """Refresh with this token, ``narrower``: for less scope than it has."""

    token: TokenAt
    why: str
    narrower: bool = False


@dataclass(frozen=True, slots=True)
class TryAccess:
    """Show the account's page the access token that came with this refresh token."""

    token: TokenAt
    why: str


@dataclass(frozen=True, slots=True)
class TryRevoke:
    """Ask the provider to revoke this token."""

    token: TokenAt
    why: str


@dataclass(frozen=True, slots=True)
class WaitFor:
    """Wait."""

    seconds: int
    why: str


Step = AskSignIn | TryRefresh | TryAccess | TryRevoke | WaitFor


@dataclass(frozen=True, slots=True)
class Observed:
    """What a step came to.

    ``ok``: tokens came, the page opened, the provider said yes. ``token``: the newest one of the sign-in after a
    refresh. ``life_s`` and ``access_life_s``: the lives that the answer tells of both tokens; ``at_s``: when it came.
    ``sid`` names the browser session, where the provider tells. ``can_narrow``: the granted scope has a word that can
    be left out; ``narrowed``: the answer has less scope.
    """

    ok: bool
    token: TokenAt | None = None
    life_s: float | None = None
    at_s: float = 0.0
    access_life_s: float = 0.0
    sid: str = ""
    can_narrow: bool = False
    narrowed: bool = False
    error: str = ""


PAUSED = Observed(True)


@dataclass(frozen=True, slots=True)
class Setup:
    """What can be tried at all.

    ``has_windows``: people sign in with a browser, whose session two sign-ins may share. ``long_try``: wait for
    :data:`LONG_TRY_S`, which tells a long leeway from none needed.
    """

    has_windows: bool = True
    has_revocation: bool = True
    has_userinfo: bool = True
    long_try: bool = True


@dataclass(frozen=True, slots=True)
class Measured:
    """The result: fields of a behaviour, those that could be measured, and sentences about what was seen."""

    values: dict[str, Value]
    leeway_between_s: tuple[int, ...]
    narrower_scope: Literal["given", "refused", "whole", "untried"]
    saw: tuple[str, ...]


@dataclass(slots=True)
class _SignedIn:
    number: int
    window: Window
    newest: TokenAt
    sid: str
    can_narrow: bool
    is_alive: bool = True
    access_ends_at_s: float = 0.0
    lives: list[tuple[float, float]] = field(default_factory=list)  # when it was told, and how long

    def hear(self, seen: Observed) -> None:
        """Take in an answer."""
        self.newest = seen.token or self.newest
        self.access_ends_at_s = seen.at_s + seen.access_life_s if seen.ok else self.access_ends_at_s
        if seen.life_s is not None:
            self.lives.append((seen.at_s, seen.life_s))


class OddRefusalError(TransientError):
    """The provider refused a token that nothing speaks against: nothing can be concluded here."""


def experiments(setup: Setup) -> Generator[Step, Observed, Measured]:
    """Yield what to do next, take what it came to, and return what follows.

    Raises OddRefusalError, in words for a person.
    """
    return (yield from _Laboratory(setup).run())


class _Laboratory:
    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._signed_in: list[_SignedIn] = []
        self._values: dict[str, Value] = {}
        self._between: tuple[int, ...] = ()
        self._narrower: Literal["given", "refused", "whole", "untried"] = "untried"
        self._saw: list[str] = []

    def run(self) -> Generator[Step, Observed, Measured]:
        first = yield from self._sign_in("usual")
        yield from self._first_refresh(first)
        if first.can_narrow:
            yield from self._narrow(first)
        if not first.is_alive:
            first = yield from self._sign_in("usual")
        others = yield from self._sign_others_in()
        if not (yield from self._are_apart([first, *others])):
            others = []
            first = self._signed_in[-1]
        if self._values["refresh_gives_new"]:
            yield from self._use_again(first, others)
        else:
            self._without_reuse("the same refresh token serves for good")
        if self._setup.has_revocation:
            yield from self._revoke(can_compare=bool(others))
        else:
            self._values["can_revoke_token"] = False
            self._saw.append("no revocation endpoint is known")
        yield from self._tell_lives()
        return Measured(self._values, self._between, self._narrower, tuple(self._saw))

    # -- steps -----------------------------------------------------------------------------------------

    def _sign_in(self, window: Window) -> Generator[Step, Observed, _SignedIn]:
        number = len(self._signed_in) + 1
        seen = yield AskSignIn(number, window)
        one = _SignedIn(number, window, seen.token or TokenAt(number, 0), seen.sid, seen.can_narrow)
        one.hear(seen)
        self._signed_in.append(one)
        return one

    def _refresh(self, one: _SignedIn, why: str) -> Generator[Step, Observed, bool]:
        """Refresh with the newest token of a sign-in; return whether it is alive."""
        seen = yield TryRefresh(one.newest, why)
        one.is_alive = seen.ok
        one.hear(seen)
        return seen.ok

    def _good_refresh(self, one: _SignedIn, why: str) -> Generator[Step, Observed, TokenAt]:
        """Refresh with a token that must work; return the token that was used."""
        used = one.newest
        if not (yield from self._refresh(one, why)):
            raise OddRefusalError("the provider refuses a refresh token that was never used before")
        return used

    # -- experiments -----------------------------------------------------------------------------------

    def _first_refresh(self, first: _SignedIn) -> Generator[Step, Observed, None]:
        used = yield from self._good_refresh(first, "a refresh")
        gives_new = first.newest != used
        self._values["refresh_gives_new"] = gives_new
        self._saw.append(f"a refresh brings {'another' if gives_new else 'no other'} refresh token")

    def _narrow(self, first: _SignedIn) -> Generator[Step, Observed, None]:
        seen = yield TryRefresh(first.newest, "a refresh for less scope", narrower=True)
        first.hear(seen)
        if seen.ok:
            self._narrower = "given" if seen.narrowed else "whole"
            self._saw.append("a refresh for less scope brings " + ("less" if seen.narrowed else "all of it"))
            return
        self._narrower = "refused"
        self._saw.append(f"a refresh for less scope is refused: {seen.error}")
        yield from self._refresh(first, "a refresh after that refusal")

    def _sign_others_in(self) -> Generator[Step, Observed, list[_SignedIn]]:
        others: list[_SignedIn] = []
        windows: tuple[Window, ...] = ("usual", "private") if self._setup.has_windows else ("private",)
        for window in windows:
            others.append((yield from self._sign_in(window)))
        return others

    def _are_apart(self, all_three: list[_SignedIn]) -> Generator[Step, Observed, bool]:
        """Return whether all of them live, so that one's end can be told from another's."""
        for one in all_three:
            yield from self._refresh(one, f"a refresh of sign-in {one.number}")
        if all(one.is_alive for one in all_three):
            return True
        if not all_three[-1].is_alive:
            raise OddRefusalError("the provider refuses the refresh token of a sign-in that has just been made")
        self._saw.append("a further sign-in ends an earlier one: how far reuse and revocation reach cannot be seen")
        return False

    def _use_again(self, first: _SignedIn, others: list[_SignedIn]) -> Generator[Step, Observed, None]:
        """Find the leeway; the first refusal is a reuse."""
        can_look = False
        if self._setup.has_userinfo:
            can_look = (yield TryAccess(first.newest, "the account's page, with an access token")).ok
        worked, refused = 0, 0
        for seconds in (*TRIES_S, *((LONG_TRY_S,) if self._setup.long_try else ())):
            used = yield from self._good_refresh(first, "another refresh, to have a used token")
            yield WaitFor(seconds, "before the used token is used again")
            seen = yield TryRefresh(used, f"the used token again, after {seconds} s")
            first.hear(seen)
            if not seen.ok:
                refused = seconds
                can_look = can_look and first.access_ends_at_s > seen.at_s + ACCESS_REST_S
                break
            worked = seconds
        by_count = False
        if not refused and self._setup.long_try:
            by_count = yield from self._is_limited_by_count(first)
        if not refused and self._setup.long_try and not by_count:
            self._without_reuse("a used refresh token stays good, also after younger ones were used")
            return
        self._values["invalidates_on_use"] = True
        if refused:
            self._between = (worked, refused)
            self._values["leeway_s"] = min(worked, LEEWAY_S_MAX)
            good = f"works after {worked} s and " if worked else ""
            self._saw.append(f"a used refresh token {good}is refused after {refused} s")
        else:
            self._between = (TRIES_S[-1],)
            self._values["leeway_s"] = TRIES_S[-1]
            self._saw.append(
                "a used refresh token works for a while, but not after younger ones were used"
                if by_count
                else f"a used refresh token works after {TRIES_S[-1]} s; longer was not tried"
            )
        if refused or by_count:
            yield from self._look_at_reuse(first, others, can_look=can_look)

    def _is_limited_by_count(self, first: _SignedIn) -> Generator[Step, Observed, bool]:
        """Return whether a used token is refused although it is not too old: some providers count uses."""
        used = yield from self._good_refresh(first, "another refresh, to have a used token")
        yield from self._good_refresh(first, "a younger token is used")
        for _ in range(3):
            seen = yield TryRefresh(used, "the used token again, and again")
            first.hear(seen)
            if not seen.ok:
                return True
        return False

    def _look_at_reuse(
        self, first: _SignedIn, others: list[_SignedIn], *, can_look: bool
    ) -> Generator[Step, Observed, None]:
        if can_look:
            still = (yield TryAccess(first.newest, "the account's page after the reuse")).ok
            self._values["reuse_kills_access_tokens"] = not still
            self._saw.append(f"after a reuse the access token {'lives on' if still else 'is refused'}")
        else:
            self._saw.append(
                "whether access tokens end with a reuse cannot be seen: no page takes it, or it was about to end"
            )
        reach = yield from self._reach_of(first, others, "the reuse")
        if reach is not None:
            self._values["reuse_takes"] = reach

    def _without_reuse(self, sentence: str) -> None:
        self._values |= {"invalidates_on_use": False, "leeway_s": 0}
        self._values |= {"reuse_takes": "nothing", "reuse_kills_access_tokens": False}
        self._saw.append(sentence)

    def _reach_of(self, struck: _SignedIn, others: list[_SignedIn], what: str) -> Generator[Step, Observed, str | None]:
        """Return what ended together with ``struck``; None: it cannot be said."""
        for one in (struck, *others):
            if one.is_alive:  # of what was revoked this is known
                yield from self._refresh(one, f"a refresh of sign-in {one.number} after {what}")
        if struck.is_alive and all(one.is_alive for one in others):
            self._saw.append(f"{what} ends nothing but the used token")
            return "nothing"
        beside = [one for one in others if one.window == struck.window and self._setup.has_windows]
        elsewhere = [one for one in others if one not in beside]
        if not others:
            self._saw.append(f"{what} ends the grant; how far it reaches beyond cannot be said")
            return None
        if any(not one.is_alive for one in elsewhere):
            reach, sentence = "user", "also those of another browser session"
        elif any(not one.is_alive for one in beside):
            reach, sentence = "session", "also those of the same browser session, no others"
        else:
            reach, sentence = "family", "those of the same sign-in, no others"
        if (doubt := self._doubt(struck, beside, elsewhere)) != "":
            self._saw.append(f"how far {what} reaches cannot be said: {doubt}")
            return None
        self._saw.append(f"{what} ends tokens: {sentence}")
        return reach

    def _doubt(self, struck: _SignedIn, beside: list[_SignedIn], elsewhere: list[_SignedIn]) -> str:
        """Return what speaks against the windows that the person used, where the provider names their sessions."""
        if not struck.sid or not self._setup.has_windows:
            return ""
        if any(one.sid not in ("", struck.sid) for one in beside):
            return "the sign-ins in one window came from two sessions"
        if any(one.sid == struck.sid for one in elsewhere):
            return "the sign-in in the private window came from the session of the other window"
        return ""

    def _revoke(self, *, can_compare: bool) -> Generator[Step, Observed, None]:
        struck, others = yield from self._for_revocation(can_compare=can_compare)
        seen = yield TryRevoke(struck.newest, f"a revocation of sign-in {struck.number}")
        if not seen.ok:
            self._values["can_revoke_token"] = False
            self._saw.append(f"a revocation is refused: {seen.error}")
            return
        if (yield from self._refresh(struck, "a refresh with the revoked token")):
            self._values["can_revoke_token"] = False
            self._saw.append("a revocation is accepted, and the token lives on")
            return
        self._values["can_revoke_token"] = True
        self._saw.append("a revocation is accepted, and the token is dead")
        reach = yield from self._reach_of(struck, others, "the revocation")
        if reach is not None:
            self._values["revocation_takes"] = reach

    def _for_revocation(self, *, can_compare: bool) -> Generator[Step, Observed, tuple[_SignedIn, list[_SignedIn]]]:
        """Return a sign-in to revoke, and two to compare, one of them in its window: the survivors, and new ones."""
        alive: dict[Window, list[_SignedIn]] = {"usual": [], "private": []}
        for one in self._signed_in:
            if one.is_alive:
                alive[one.window].append(one)
        if not can_compare:
            found = alive["usual"] + alive["private"] or [(yield from self._sign_in("usual"))]
            return found[-1], []
        wanted: dict[Window, int] = {"usual": 2, "private": 1}
        if not self._setup.has_windows:
            wanted["usual"] = 1
        elif len(alive["private"]) > len(alive["usual"]):
            wanted = {"usual": 1, "private": 2}
        for window, count in wanted.items():
            for _ in range(count - len(alive[window])):
                one = yield from self._sign_in(window)
                yield from self._good_refresh(one, f"a refresh of sign-in {one.number}")
                alive[window].append(one)
        struck_window: Window = "private" if wanted["private"] == 2 else "usual"
        struck = alive[struck_window][0]
        mates = alive[struck_window][1:2]
        return struck, [*mates, *(alive["usual"] if struck_window == "private" else alive["private"])[:1]]

    # -- lifetimes -------------------------------------------------------------------------------------

    def _tell_lives(self) -> Generator[Step, Observed, None]:
        """Conclude what the told lifetimes are: a life that starts anew with each refresh, or one that runs out."""
        told = [one for one in self._signed_in if one.lives]
        if not told:
            return
        if not any(_spread_s(one) >= LIFE_PAUSE_S for one in told):
            alive = [one for one in told if one.is_alive] or [(yield from self._sign_in("usual"))]
            yield WaitFor(LIFE_PAUSE_S, "before another refresh tells a life")
            yield from self._refresh(alive[0], "a refresh that tells a life")
            told = alive[:1]
        one = max(told, key=_spread_s)
        (since_s, life_s), (until_s, left_s) = one.lives[0], one.lives[-1]
        shrinks = life_s - left_s >= (until_s - since_s) / 2 > 0
        name = "absolute_lifetime_s" if shrinks else "idle_lifetime_s"
        self._values[name] = min(round(life_s), LIFETIME_S_MAX)
        how = "counted from the sign-in" if shrinks else "counted anew with each refresh"
        self._saw.append(f"the provider tells a life of {round(life_s)} s, {how}")


def _spread_s(one: _SignedIn) -> float:
    return one.lives[-1][0] - one.lives[0][0]
