"""Sign-in by Entra External ID native authentication: password, or a code sent by e-mail; no browser.

A sign-in is a chain of POSTs, each carrying the continuation token of the one before. The chain is spelled here
as states: every step takes a state and returns the next one as a value, with the latest continuation token
inside it as a secret. Nothing is stored; whoever drops the state has given the sign-in up.

    start() -> PasswordRequired -> submit_password() -> SignedIn
            -> CodeRequired     -> submit_code()     -> SignedIn      (resend() -> CodeRequired)
    any step -> RedirectRequired | SignInFailed

Invariants. A failed attempt does not consume the continuation token, so a retry carries the same one, or the newer
one that the error brought. A code gets three tries here, whatever the provider allows. ``expired_token`` begins
the flow anew once per sign-in. Token answers are judged by :func:`relay.provider.oauth.classify`, like all others.

Second factors and registration would enter where ``_token_answer`` meets ``mfa_required`` and ``registration_required``
(their error bodies carry the continuation token). Today these capabilities are not declared, so the provider sends
the person to a browser instead; so do we.

Reference: Microsoft Entra "native authentication API reference", version 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import assert_never
from urllib.parse import urlsplit, urlunsplit

from relay.errors import ConfigError
from relay.provider.http import Http, HttpResponse, Lost, NotSent, url_problem
from relay.provider.oauth import DiscoveryFailed, Form, ProviderMetadata, classify, post, read_metadata
from relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, Unavailable
from relay.provider.profile import Profile
from relay.provider.tokens import ErrorAnswer, find_code, find_error, parse_object, shown, slug
from relay.secret import Code, Password, Secret

CODE_TRIES_MAX = 3
USERNAME_CHARS_MAX = 320  # an e-mail address: 64 + 1 + 255, RFC 5321 §4.5.3.1
CODE_LENGTH_MAX = 32
RESEND_AFTER_S_MAX = 600.0  # longer than a code lives
CHALLENGE_TYPES = "password oob redirect"  # "redirect" must be among them
SCOPE_DEFAULT = "openid profile offline_access"

_TENANT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)
_TENANT_GUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_CIAM_SUFFIX = ".ciamlogin.com"

# Our words for the provider's codes: its own text never reaches the person.
_DETAILS = {
    "user_not_found": "the provider knows no account with this name",
    "nativeauthapi_disabled": "native authentication is not switched on for this client_id",
    "unauthorized_client": "the provider does not know this client_id in this tenant",
    "unsupported_challenge_type": "the provider does not accept the ways of signing in that were offered",
    "provider_blocked_by_rep": "the provider does not send codes to this address",
    "invalid_scope": "the provider does not grant this scope",
    "expired_token": "the sign-in took too long; begin again",
}
_DETAILS_BY_CODE = {
    50126: "wrong password",
    50034: "the provider knows no account with this name",
    50053: "the account is locked for a while after too many failed attempts",
    50057: "the account is disabled",
    50142: "the password must be reset before the next sign-in",
    50055: "the password has expired",
    500222: "this account has no password; it signs in with a code",
    55200: "the provider no longer accepts this sign-in; begin again",
    90100: "the provider finds the user name or client_id empty or invalid",
    53003: "a rule of the tenant blocks this sign-in",
    65001: "consent is missing for this client_id",
}


# -- States ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PasswordRequired:
    """The account signs in with a password."""

    continuation_token: Code


@dataclass(frozen=True, slots=True)
class CodeRequired:
    """A code of ``code_length`` characters is on its way to ``target_label`` (masked) by ``channel``.

    ``resend_after_s`` is how long the provider wants a person to wait before asking for another, 0 if it did not say.
    """

    target_label: str
    code_length: int
    channel: str
    continuation_token: Code
    resend_after_s: float = 0.0
    tries_left: int = CODE_TRIES_MAX


@dataclass(frozen=True, slots=True)
class RedirectRequired:
    """The provider wants a browser for this account; native authentication ends here."""

    reason: str


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Tokens are here; judge ``tokens.problem``, and store ``tokens.refresh_token`` first."""

    tokens: Refreshed


@dataclass(frozen=True, slots=True)
class SignInFailed:
    """This step failed. ``retryable``: trying again can help, from ``again`` where it is given, else from the start.

    ``error`` is the provider's code, or ``unavailable``, ``outcome_unknown``, ``bad_answer``, ``too_many_tries``;
    ``detail`` is a sentence of ours, and the ids are for the provider's support desk.
    """

    retryable: bool
    error: str
    codes: tuple[int, ...] = ()
    trace_id: str = ""
    correlation_id: str = ""
    detail: str = ""
    retry_after_s: float | None = None
    again: PasswordRequired | CodeRequired | None = None


SignInStep = PasswordRequired | CodeRequired | RedirectRequired | SignedIn | SignInFailed


# -- Where it happens --------------------------------------------------------------------------------------


def native_base(provider_url: str, tenant: str | None = None) -> str:
    """Return the base URL of all native endpoints, without a slash at its end.

    ``https://contoso.ciamlogin.com`` with tenant ``contoso`` (or none: the host says it) gives
    ``https://contoso.ciamlogin.com/contoso.onmicrosoft.com``. A GUID or a domain as tenant is taken as it is. A URL
    that has a path already is the base itself.

    Raises:
        ConfigError: the URL or the tenant cannot be used; the message says which.
    """
    problem = url_problem(provider_url)
    if problem or "?" in provider_url:
        raise ConfigError(f"the provider URL {problem or 'holds a query'}", hint="try https://NAME.ciamlogin.com")
    parts = urlsplit(provider_url)
    path = parts.path.strip("/")
    if path:
        if tenant and path.lower() not in (tenant.lower(), _tenant_segment(tenant).lower()):
            raise ConfigError("the provider URL names another tenant than the one given")
        return urlunsplit(parts._replace(path=f"/{path}"))
    host = parts.hostname or ""
    if not tenant and host.endswith(_CIAM_SUFFIX):
        tenant = host.removesuffix(_CIAM_SUFFIX)
    if not tenant:
        raise ConfigError("the provider URL does not say which tenant is meant", hint="give the tenant")
    return urlunsplit(parts._replace(path=f"/{_tenant_segment(tenant)}"))


def _tenant_segment(tenant: str) -> str:
    if not _TENANT.fullmatch(tenant) or ".." in tenant:
        raise ConfigError("a tenant is a name, a domain or a GUID")
    return tenant if "." in tenant or _TENANT_GUID.fullmatch(tenant) else f"{tenant}.onmicrosoft.com"


def entra_token_endpoint(base: str) -> str:
    """Return the token endpoint under a native base."""
    return f"{base}/oauth2/v2.0/token"


def entra_discovery_url(base: str) -> str:
    """Return where the tenant's discovery document is."""
    return f"{base}/v2.0/.well-known/openid-configuration"


async def discover_entra(http: Http, base: str) -> ProviderMetadata | DiscoveryFailed:
    """Read the tenant's metadata. Its issuer has a host made of the tenant's GUID, so it cannot equal ``base``.

    Trust rests on TLS to the host of ``base``; what remains to be checked is that an id_token's ``iss`` equals
    the document's issuer. The token endpoint is the one under ``base``, since the native steps are there as well.
    """
    url = entra_discovery_url(base)
    found = await read_metadata(http, url)
    if found is None:
        return DiscoveryFailed("the tenant has no discovery document; is its name right?", is_temporary=False)
    if isinstance(found, DiscoveryFailed):
        return found
    return ProviderMetadata(
        issuer=found.issuer,
        token_endpoint=entra_token_endpoint(base),
        authorization_endpoint=found.authorization_endpoint,
        jwks_uri=found.jwks_uri,
    )


# -- The flow ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class NativeSignIn:
    """One sign-in of one person. Steps are awaited one after the other; cancelling one leaves nothing behind.

    ``capabilities`` is what the app can do beyond first factors (``mfa_required``, ``registration_required``);
    empty here, which makes the provider answer with a redirect where it would need one of them.
    """

    http: Http
    profile: Profile
    base: str
    client_id: str
    username: str
    scope: str = SCOPE_DEFAULT
    capabilities: tuple[str, ...] = ()
    _may_restart: bool = field(default=True, repr=False)

    async def start(self) -> SignInStep:
        """Name the account, and learn how it signs in; for a code account the code is sent now."""
        if not self.username or len(self.username) > USERNAME_CHARS_MAX or not self.username.isprintable():
            return SignInFailed(retryable=False, error="invalid_request", detail="the user name is empty or unusable")
        step = await self._start()
        if isinstance(step, SignInFailed) and self._take_restart(step):
            step = await self._start()
        return step

    async def submit_password(self, state: PasswordRequired, password: Password) -> SignInStep:
        """Send the password. If the flow had expired, it is begun anew and the password sent again, once."""
        step = await self._submit(state, "password", ("password", password))
        if isinstance(step, SignInFailed) and self._take_restart(step):
            step = await self._start()
            if isinstance(step, PasswordRequired):
                step = await self._submit(step, "password", ("password", password))
        return step

    async def submit_code(self, state: CodeRequired, code: Code) -> SignInStep:
        """Send the code. If the flow had expired, it is begun anew: the answer is then a new :class:`CodeRequired`."""
        if state.tries_left < 1:
            return SignInFailed(
                retryable=True, error="too_many_tries", detail="ask for a new code", again=replace(state, tries_left=0)
            )
        step = await self._submit(state, "oob", ("oob", code))
        if isinstance(step, SignInFailed) and self._take_restart(step):
            step = await self._start()
        return step

    async def resend(self, state: CodeRequired) -> SignInStep:
        """Have a new code sent; the older one is void from now on, and three new tries begin."""
        step = await self._challenge(state.continuation_token, state)
        if isinstance(step, SignInFailed) and self._take_restart(step):
            step = await self._start()
        return step

    def _take_restart(self, step: SignInFailed) -> bool:
        if step.error != "expired_token" or not self._may_restart:
            return False
        self._may_restart = False
        return True

    async def _start(self) -> SignInStep:
        form: list[tuple[str, str | Secret[str]]] = [
            ("client_id", self.client_id),
            ("username", self.username),
            ("challenge_type", CHALLENGE_TYPES),
        ]
        if self.capabilities:
            form.append(("capabilities", " ".join(self.capabilities)))
        answer = await self._post("/oauth2/v2.0/initiate", tuple(form), None)
        if not isinstance(answer, dict):
            return answer
        token = find_code(answer, "continuation_token")
        if token is None:
            return _bad_answer("the provider's answer has no continuation token")
        return await self._challenge(token, None)

    async def _challenge(self, token: Code, state: CodeRequired | None) -> SignInStep:
        form: Form = (
            ("client_id", self.client_id),
            ("continuation_token", token),
            ("challenge_type", CHALLENGE_TYPES),
        )
        answer = await self._post("/oauth2/v2.0/challenge", form, state)
        if not isinstance(answer, dict):
            return answer
        next_token = find_code(answer, "continuation_token")
        if next_token is None:
            return _bad_answer("the provider's answer has no continuation token")
        match answer.get("challenge_type"):
            case "password":
                return PasswordRequired(next_token)
            case "oob":
                return _code_required(answer, next_token)
            case _:
                return _bad_answer("the provider asks for a way of signing in that is not known here")

    async def _submit(
        self, state: PasswordRequired | CodeRequired, grant_type: str, credential: tuple[str, Secret[str]]
    ) -> SignInStep:
        form: Form = (
            ("client_id", self.client_id),
            ("grant_type", grant_type),
            ("continuation_token", state.continuation_token),
            ("scope", self.scope),
            ("client_info", "1"),
            credential,
        )
        response = await self.http.request(post(entra_token_endpoint(self.base), form))
        return _token_answer(self.profile, response, state)

    async def _post(
        self, path: str, form: Form, state: CodeRequired | None
    ) -> dict[str, object] | RedirectRequired | SignInFailed:
        """Make one step that brings no tokens; anything but its proper answer is the next state already."""
        response = await self.http.request(post(f"{self.base}{path}", form))
        if isinstance(response, HttpResponse):
            answer, error = _read(response)
            if redirect := _redirect(response, answer):
                return redirect
            if response.status == 200 and answer is not None:
                return answer
            if error is not None and not _is_unavailable(self.profile, response):
                return _failed(error, retryable=_is_over(error))
        return _not_answered(self.profile, response, state)


# -- Judging answers ---------------------------------------------------------------------------------------


def _token_answer(
    profile: Profile, response: HttpResponse | NotSent | Lost, state: PasswordRequired | CodeRequired
) -> SignInStep:
    error: ErrorAnswer | None = None
    if isinstance(response, HttpResponse):
        answer, error = _read(response)
        if redirect := _redirect(response, answer):
            return redirect
    outcome = classify(profile, response)
    if isinstance(outcome, Refreshed):
        return SignedIn(outcome)
    if not isinstance(outcome, Denied) or error is None:
        return _not_answered(profile, response, state)
    if error.continuation_token is not None:
        state = replace(state, continuation_token=error.continuation_token)
    if error.suberror in ("mfa_required", "registration_required"):
        return RedirectRequired(f"the account needs another step ({error.suberror}) that is done in a browser")
    if isinstance(state, CodeRequired) and (error.suberror == "invalid_oob_value" or 50181 in error.codes):
        state = replace(state, tries_left=state.tries_left - 1)
        detail = "wrong code" if state.tries_left else "wrong code, and no try is left: ask for a new one"
        return _failed(error, retryable=True, detail=detail, again=state)
    if isinstance(state, PasswordRequired) and error.error == "invalid_grant" and 50126 in error.codes:
        return _failed(error, retryable=True, again=state)
    if outcome.kind == "temporary":
        return _failed(error, retryable=True, again=state, retry_after_s=outcome.retry_after_s)
    return _failed(error, retryable=_is_over(error))


def _is_over(error: ErrorAnswer) -> bool:
    """Whether only this run of the flow has ended: its continuation token is too old or no longer known."""
    return error.error == "expired_token" or 55200 in error.codes


def _read(response: HttpResponse) -> tuple[dict[str, object] | None, ErrorAnswer | None]:
    parsed = parse_object(response.body)
    if parsed is None or parsed[1]:
        return None, None
    return parsed[0], find_error(parsed[0]) if 400 <= response.status < 500 else None


def _redirect(response: HttpResponse, answer: dict[str, object] | None) -> RedirectRequired | None:
    """Recognise the answer with which every step may send the person to a browser."""
    if response.status != 200 or answer is None or answer.get("challenge_type") != "redirect":
        return None
    said = answer.get("redirect_reason")
    words = [word for word in ("mfa_required", "registration_required") if isinstance(said, str) and word in said]
    named = f" ({', '.join(words)})" if words else ""
    return RedirectRequired(f"the provider wants a browser for this account{named}")


def _is_unavailable(profile: Profile, response: HttpResponse) -> bool:
    return isinstance(classify(profile, response), Unavailable)


def _not_answered(
    profile: Profile, response: HttpResponse | NotSent | Lost, state: PasswordRequired | CodeRequired | None
) -> SignInFailed:
    """Name what came instead of an answer. A state survives only a request that was certainly not processed."""
    outcome = classify(profile, response)
    match outcome:
        case Unavailable(reason, retry_after_s):
            return SignInFailed(
                retryable=True, error="unavailable", detail=reason, retry_after_s=retry_after_s, again=state
            )
        case OutcomeUnknown(reason):
            return SignInFailed(retryable=True, error="outcome_unknown", detail=reason)
        case Refreshed() | Denied():
            return _bad_answer("the provider's answer does not belong to this step")
        case _:
            assert_never(outcome)


def _failed(
    error: ErrorAnswer,
    *,
    retryable: bool,
    detail: str = "",
    again: PasswordRequired | CodeRequired | None = None,
    retry_after_s: float | None = None,
) -> SignInFailed:
    if not detail:
        by_code = (_DETAILS_BY_CODE[code] for code in error.codes if code in _DETAILS_BY_CODE)
        detail = next(by_code, "") or _DETAILS.get(error.suberror) or _DETAILS.get(error.error) or ""
    return SignInFailed(
        retryable=retryable,
        error=error.error,
        codes=error.codes,
        trace_id=error.trace_id,
        correlation_id=error.correlation_id,
        detail=detail or "the provider refused this step",
        retry_after_s=retry_after_s,
        again=again,
    )


def _bad_answer(detail: str) -> SignInFailed:
    return SignInFailed(retryable=False, error="bad_answer", detail=detail)


def _code_required(answer: dict[str, object], token: Code) -> SignInStep:
    length, interval = answer.get("code_length"), answer.get("interval")
    if not isinstance(length, int) or isinstance(length, bool) or not 0 < length <= CODE_LENGTH_MAX:
        return _bad_answer("the provider's answer has no usable code length")
    is_number = isinstance(interval, int) and not isinstance(interval, bool) and interval > 0
    return CodeRequired(
        target_label=shown(answer.get("challenge_target_label")),
        code_length=length,
        channel=slug(answer.get("challenge_channel") or "email", otherwise="unknown"),
        continuation_token=token,
        resend_after_s=min(float(interval), RESEND_AFTER_S_MAX) if is_number and isinstance(interval, int) else 0.0,
    )
