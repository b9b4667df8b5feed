"""A sign-in with a browser survives what lies around it; only what is proven wrong costs the grant."""

from __future__ import annotations

import asyncio
import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from tests.agents.world_kit import World, running
from token_relay.agents.grants.errand import RefreshErrand
from token_relay.agents.phone.account_settings import AccountSettings
from token_relay.agents.phone.agent import HandoffWish
from token_relay.agents.phone.person import CodeReceived, NotAccepted, SignInOptions, SignInRefused
from token_relay.agents.phone.provider_endpoints import asked_prompt, asked_scope, find_metadata
from token_relay.agents.phone.sign_in import ProviderSignIn
from token_relay.agents.phone.sign_in_advice import (
    ACCOUNT_SHARED,
    OWN_CLIENT,
    PRIVATE_WINDOW,
    advice_about,
    foreseen,
    not_granted,
    revocation_foreseen,
    sibling_advice,
)
from token_relay.agents.records import AuditEvent, Grant
from token_relay.protocol.behaviour import Takes
from token_relay.protocol.errors import ConfigError, LocalError, PeerError, PersonNeededError
from token_relay.protocol.secret import Code
from token_relay.provider import discovery
from token_relay.provider.discovery import GivenEndpoints
from token_relay.provider.http import AnswerLost, HttpRequest, HttpResponse, NotSent
from token_relay.provider.native_auth.endpoints import discover_entra
from token_relay.provider.profile import PROFILES, described

pytestmark = pytest.mark.asyncio
KEY = RSAKey.generate_key(2048, parameters={"kid": "a"})
OTHER = RSAKey.generate_key(2048, parameters={"kid": "a"})


def cases(name: str) -> list[Any]:
    found: list[Any] = tomllib.loads((Path(__file__).parent / f"cases/{name}.toml").read_text("utf-8"))["case"]
    return [pytest.param(case, id=case["name"]) for case in found]


class Browser:
    """The person, their browser, and the receiver to which it comes back: one after the other what ``answers`` say."""

    def __init__(self, *answers: CodeReceived | SignInRefused | NotAccepted | float) -> None:
        self.answers = list(answers or (CodeReceived(Code("c")),))
        self.said: list[str] = []
        self.url = ""
        self.redirect_uri = "http://127.0.0.1:40000/callback"

    async def ask(self, kind: Any, text: str, **extra: Any) -> str | None:
        self.url = str(extra["url"])
        return "shown"

    async def progress(self, step: dict[str, Any]) -> None:
        self.said.append(str(step["message"]))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def wait(self) -> CodeReceived | SignInRefused | NotAccepted:
        while isinstance(self.answers[0], float):
            left, self.answers[0] = self.answers[0], 1e9
            await asyncio.sleep(left)
            self.answers.pop(0)
        answer = self.answers.pop(0)
        assert not isinstance(answer, float)
        return answer


class Provider:
    """A provider of canned answers."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.key: RSAKey | OctKey = KEY
        self.header: dict[str, Any] = {"alg": "RS256", "kid": "a"}
        self.claims: dict[str, Any] = {}
        self.tokens: dict[str, Any] = {}
        self.document: dict[str, Any] = {}
        self.jwks: HttpResponse | NotSent = answer(200, {"keys": [KEY.as_dict(private=False)]})
        self.userinfo: dict[str, Any] = {}
        self.refusal: dict[str, Any] | None = None
        self.has_document = True
        self.form: dict[str, str] = {}
        self.revoked = self.named = self.looked = 0
        self.now_s = 0.0

    async def request(self, request: HttpRequest) -> HttpResponse | NotSent | AnswerLost:
        base = "https://p.example"
        path = urlsplit(request.url).path
        if path == "/revoke":
            self.revoked += 1
            return answer(200, {})
        if path == "/jwks":
            return self.jwks
        if path == "/me":
            self.named += 1
            return answer(200 if self.userinfo else 404, self.userinfo)
        if "/.well-known/" in path:
            self.looked += 1
            if not self.has_document:
                return answer(404, {})
        if path.endswith("/token"):
            self.form = {name: value for name, value in request.form or () if isinstance(value, str)}
            if self.refusal is not None:
                return answer(400, self.refusal)
            asked = parse_qs(urlsplit(self.browser.url).query)
            claims = {"iss": base, "aud": "app", "sub": "sub-1", "iat": self.now_s, "exp": self.now_s + 600}
            claims |= {"nonce": asked["nonce"][0]} | self.claims
            claims = {name: value for name, value in claims.items() if value is not None}
            token = jwt.encode(self.header, claims, self.key, algorithms=[self.header["alg"]])
            good = {"access_token": "at", "token_type": "Bearer", "expires_in": 600, "refresh_token": "rt"}
            return answer(200, good | {"id_token": token} | self.tokens)
        document = {"issuer": base, **{f"{name}_endpoint": f"{base}/{at}" for name, at in ENDPOINTS.items()}}
        return answer(200, document | {"jwks_uri": f"{base}/jwks"} | self.document)


OTHER_TOKENS = "https://p.example/other/token"
DEFAULT_SCOPE = "openid profile offline_access"
ENDPOINTS = {"token": "token", "authorization": "authorize", "revocation": "revoke"}


def settings_of(case: dict[str, Any]) -> AccountSettings:
    """The settings of a case; strict, and a public client, unless it says otherwise."""
    settings = AccountSettings("https://p.example", "app", None, DEFAULT_SCOPE, PROFILES["strict"], True)
    said = {name: value for name, value in case.get("settings", {}).items() if name != "profile"}
    said = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
    if "endpoints" in said:
        said["endpoints"] = GivenEndpoints(**said["endpoints"])
    profile = PROFILES[case.get("settings", {}).get("profile", "strict")]
    return replace(settings, profile=profile, **said)


def answer(status: int, body: object) -> HttpResponse:
    return HttpResponse(status, {}, json.dumps(body).encode())


def put_in(world: World, provider: Provider, browser: Browser, scope: str) -> None:
    """Give the phone this provider, and this browser."""
    phone = world.phone
    settings = phone.agent.settings
    changed = type(settings)(
        "https://p.example", "app", None, scope, settings.profile, settings.allow_refresh_token_access
    )
    accounts: Any = phone.agent.accounts
    obtaining: Any = phone.agent.obtaining
    phone.agent.settings = accounts.settings = changed
    accounts._http = provider
    accounts._sign_in = obtaining._sign_in = ProviderSignIn(
        http=provider, clock=phone.clock, random=phone.random, settings=changed, new_receiver=lambda state: browser
    )
    provider.now_s = phone.clock.now().wall_s


async def sign_in(world: World, provider: Provider, scope: str = "openid offline_access") -> Grant:
    put_in(world, provider, provider.browser, scope)
    options = SignInOptions(method="browser")
    return await world.within(world.phone.agent.accounts.sign_in(provider.browser, options), seconds=3_600)


async def events(world: World) -> dict[str, str]:
    return {row.name: row.detail for row in await world.phone.rows(AuditEvent)}


# -- What cannot be judged ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"jwks": NotSent("no network")}, "no network"),
        ({"jwks": answer(503, {})}, "HTTP 503"),
        ({"jwks": answer(200, {"keys": []})}, "publishes no key"),
        ({"jwks": answer(200, {"keys": "none"})}, "not a JWK set"),
        ({"document": {"jwks_uri": None}}, "jwks_uri"),
    ],
)
async def test_a_check_that_fails_for_our_reason_does_not_cost_the_sign_in(change: dict[str, Any], words: str) -> None:
    async with running("strict", paired=False) as world:
        provider = Provider(Browser())
        for name, value in change.items():
            setattr(provider, name, value)
        grant = await sign_in(world, provider)
        assert (grant.state, grant.subject, provider.revoked) == ("held", "sub-1", 0)
        assert words in (await events(world))["id_token_unverified"]
        assert any("could not be checked" in said and words in said for said in provider.browser.said)


@pytest.mark.parametrize(
    "change",
    [
        {"key": OTHER},
        {"claims": {"nonce": "another"}},
        {"claims": {"iss": "https://evil.example"}},
        {"claims": {"aud": "other"}},
        {"claims": {"exp": 1}},
        {"key": OctKey.generate_key(256), "header": {"alg": "HS256"}},
        {"jwks": answer(503, {}), "claims": {"nonce": "another"}},
    ],
)
async def test_what_is_proven_wrong_is_revoked_and_erased(change: dict[str, Any]) -> None:
    async with running("strict", paired=False) as world:
        provider = Provider(Browser())
        for name, value in change.items():
            setattr(provider, name, value)
        with pytest.raises(PeerError):
            await sign_in(world, provider)
        assert provider.revoked == 1
        assert await world.phone.rows(Grant) == []
        found = await events(world)
        assert "id_token" in found["sign_in_refused"]
        assert found["revoked_at_provider"] == "accepted"


@pytest.mark.parametrize(("profile", "said"), [("auth0", "accepted"), ("entra", "unsupported")])
async def test_a_sign_in_that_nobody_judged_is_discarded_at_the_start_and_its_end_told(profile: str, said: str) -> None:
    async with running(profile, paired=False) as world:
        grant = await world.phone.sign_in()
        await world.phone.edit(grant, state="locked", reason="unverified")
        await world.phone.crash()
        await world.phone.start()
        await world.advance(30)
        assert await world.phone.rows(Grant) == []
        found = await events(world)
        assert "before it was checked" in found["sign_in_refused"]
        assert found["revoked_at_provider"] == said


async def test_a_sign_in_beside_another_is_revoked_only_where_that_ends_nothing_else() -> None:
    async with running("strict", paired=False) as world:
        good, bad = Provider(Browser()), Provider(Browser())
        await sign_in(world, good)
        bad.claims = {"nonce": "another"}
        with pytest.raises(PeerError):
            await sign_in(world, bad)
        assert (bad.revoked, (await events(world))["revoked_at_provider"]) == (0, "unsupported")
        (grant,) = await world.phone.rows(Grant)
        assert (grant.state, grant.subject) == ("held", "sub-1")


# -- A browser session that two sign-ins share -------------------------------------------------------------


async def mint(world: World, provider: Provider, **settings: Any) -> None:
    put_in(world, provider, provider.browser, "openid offline_access")
    agent = world.phone.agent
    agent.settings = agent.accounts.settings = replace(agent.settings, **settings)
    wish = HandoffWish(strategy="mint", sign_in=SignInOptions(method="browser"))
    row = await world.within(world.phone.agent.hand_off("watch", wish, provider.browser), seconds=3_600)
    assert row.state == "done"


@pytest.mark.parametrize(("sid", "is_shared"), [("session-1", True), ("session-2", False), (None, False)])
async def test_a_mint_in_the_session_of_the_phone_is_told(sid: str | None, is_shared: bool) -> None:
    async with running("strict", paired=False) as world:
        await world.pair()
        provider = Provider(Browser())
        provider.claims = {"sid": "session-1"}
        assert (await sign_in(world, provider)).sid == "session-1"
        provider = Provider(Browser())
        provider.claims = {"sid": sid}
        await mint(world, provider)
        assert "private browser window" in provider.browser.said[0]
        assert ("session_shared" in await events(world)) == is_shared
        assert any("same browser session" in said for said in provider.browser.said) == is_shared


IN_SESSION = f"{PRIVATE_WINDOW}; {OWN_CLIENT}"


async def test_a_client_for_companions_is_asked_for_offered_and_handed_over() -> None:
    async with running("strict", paired=False) as world:
        await world.pair()
        provider = Provider(Browser())
        provider.claims = {"aud": "watches"}
        await mint(world, provider, companion_client_id="watches")
        assert parse_qs(urlsplit(provider.browser.url).query)["client_id"] == ["watches"]
        assert provider.form["client_id"] == "watches"
        assert (await world.watch.grant()).client_id == (await world.phone.handoff()).client_id == "watches"
        assert (await world.watch.grant()).is_sole


SIBLINGS = [  # reuse takes, revocation takes, a device can revoke, what a person hears
    ("nothing", "nothing", True, ""),
    ("family", "family", True, ""),
    ("session", "family", True, IN_SESSION),
    ("family", "session", True, IN_SESSION),
    ("unknown", "family", True, IN_SESSION),
    ("family", "unknown", True, IN_SESSION),
    ("user", "session", True, ACCOUNT_SHARED),
    ("family", "user", True, ACCOUNT_SHARED),
    ("nothing", "user", False, ""),  # nobody's revocation by accident
    ("session", "user", False, IN_SESSION),
]


@pytest.mark.parametrize(
    ("reuse", "revocation", "can_revoke", "advice"),
    SIBLINGS,
    ids=[
        f"{reuse}-{revocation}-{'asked' if can_revoke else 'unasked'}" for reuse, revocation, can_revoke, _ in SIBLINGS
    ],
)
async def test_the_way_out_is_told_unless_a_grant_is_known_to_end_alone(
    reuse: Takes, revocation: Takes, can_revoke: bool, advice: str
) -> None:
    said = {"reuse_takes": reuse, "revocation_takes": revocation, "can_revoke_token": can_revoke}
    assert sibling_advice(described(PROFILES["auth0"], PROFILES["auth0"].behaviour.model_copy(update=said))) == advice


async def test_a_provider_that_nobody_described_is_one_with_shared_sessions() -> None:
    assert sibling_advice(PROFILES["strict"]) == IN_SESSION
    assert sibling_advice(PROFILES["oidc-provider"]) == IN_SESSION
    assert sibling_advice(PROFILES["google"]) == ACCOUNT_SHARED
    assert sibling_advice(PROFILES["auth0"]) == sibling_advice(PROFILES["entra"]) == ""


# -- What the person hears ---------------------------------------------------------------------------------


async def test_what_was_not_granted_is_told_and_not_written_as_granted() -> None:
    async with running("strict", paired=False) as world:
        provider = Provider(Browser())
        provider.tokens = {"scope": "openid api:read"}
        grant = await sign_in(world, provider, "openid profile offline_access api:read nope:write")
        # measured at oidc-provider: a word beyond these, profile too, makes each refresh of a companion invalid_scope
        assert grant.scope == "api:read openid"
        assert "nope:write" in (await events(world))["scope_not_granted"]
        assert any("nope:write" in said for said in provider.browser.said)


@pytest.mark.parametrize(
    ("asked", "answered", "missing"),
    [
        ("openid offline_access nope:write", "openid offline_access", "nope:write"),
        ("openid b a", "openid", "a b"),
        ("openid profile email offline_access a", "a", ""),  # answers tend to leave these out
        ("openid a", "", ""),  # RFC 6749 §5.1: as asked
    ],
)
async def test_the_words_that_were_not_granted(asked: str, answered: str, missing: str) -> None:
    assert not_granted(asked, answered) == missing


async def test_two_accounts_without_a_name_are_told_apart() -> None:
    async with running("strict", paired=False) as world:
        for sub in ("sub-1", "sub-2"):
            provider = Provider(Browser())
            provider.claims = {"sub": sub}
            await sign_in(world, provider)
        assert sorted(grant.account for grant in await world.phone.rows(Grant)) == ["sub-1", "sub-2"]


USERINFO = {"userinfo_endpoint": "https://p.example/me"}


@pytest.mark.parametrize(
    ("claims", "userinfo", "scope", "account", "asks"),
    [
        ({"preferred_username": "ada"}, {"sub": "sub-1", "name": "other"}, "openid", "ada", 0),
        ({}, {"sub": "sub-1", "email": "ada@example.org"}, "openid", "ada@example.org", 1),
        ({}, {"sub": "sub-1"}, "openid", "sub-1", 1),
        ({}, {"sub": "sub-2", "name": "somebody else"}, "openid", "sub-1", 1),  # OpenID Connect Core §5.3.2
        ({}, {}, "openid", "sub-1", 1),
        (None, {"sub": "sub-3", "name": "Ada"}, "api", "Ada", 1),
        (None, {"sub": "sub-3"}, "api", "sub-3", 1),
        (None, {}, "api", "unnamed account at p.example", 1),
    ],
)
async def test_an_account_has_a_name_whatever_the_provider_tells(
    claims: dict[str, Any] | None, userinfo: dict[str, Any], scope: str, account: str, asks: int
) -> None:
    async with running("strict", paired=False) as world:
        provider = Provider(Browser())
        provider.document, provider.userinfo = USERINFO, userinfo
        if claims is None:
            provider.tokens = {"id_token": None}
        else:
            provider.claims = claims
        grant = await sign_in(world, provider, f"{scope} offline_access")
        assert (grant.account, grant.state, provider.named) == (account, "held", asks)
        assert grant.subject == ("sub-1" if claims is not None else userinfo.get("sub", ""))


async def test_what_the_settings_say_stands_in_the_requests_of_a_sign_in_and_in_its_grant() -> None:
    async with running("strict", paired=False) as world:
        provider = Provider(Browser())
        put_in(world, provider, provider.browser, "openid offline_access")
        accounts: Any = world.phone.agent.accounts
        more = {"resource": "https://api.example/v1", "authorization_parameters": {"acr_values": "a b"}}
        endpoints = GivenEndpoints(authorization_endpoint="https://p.example/login?x=1", token_endpoint=OTHER_TOKENS)
        settings = replace(accounts.settings, endpoints=endpoints, **more)
        accounts.settings = accounts._sign_in._settings = settings
        options = SignInOptions(method="browser")
        grant = await world.within(accounts.sign_in(provider.browser, options), seconds=3_600)
        asked = urlsplit(provider.browser.url)
        query = parse_qs(asked.query)
        assert (asked.path, query["x"], query["acr_values"]) == ("/login", ["1"], ["a b"])
        assert (query["resource"], query["prompt"]) == (["https://api.example/v1"], ["consent"])
        assert provider.form["resource"] == "https://api.example/v1"
        assert (grant.audience, grant.token_endpoint) == ("https://api.example/v1", OTHER_TOKENS)
        world.phone.agent.keeper.flights._http = provider
        await world.within(world.phone.agent.keeper.flights.fly_alone(grant.grant_id, RefreshErrand()))
        assert (provider.form["grant_type"], provider.form["resource"]) == ("refresh_token", "https://api.example/v1")


async def test_a_provider_without_metadata_is_taken_as_it_was_described() -> None:
    async with running("strict", paired=False) as world:
        provider = Provider(Browser())
        put_in(world, provider, provider.browser, "openid offline_access")
        accounts: Any = world.phone.agent.accounts
        by_hand = GivenEndpoints(
            authorization_endpoint="https://p.example/authorize",
            token_endpoint="https://p.example/token",
            jwks_uri="https://p.example/jwks",
        )
        for uses_discovery in (False, True):
            provider.has_document = False
            settings = replace(accounts.settings, endpoints=by_hand, uses_discovery=uses_discovery)
            accounts.settings = accounts._sign_in._settings = settings
            options = SignInOptions(method="browser")
            provider.browser.answers = [CodeReceived(Code("c"))]
            grant = await world.within(accounts.sign_in(provider.browser, options), seconds=3_600)
            assert (grant.state, grant.issuer) == ("held", "https://p.example")
            assert (provider.looked > 0) == uses_discovery


@pytest.mark.parametrize(
    ("scope", "document", "words"),
    [
        ("openid offline_access", {}, "offline_access was asked for"),
        ("openid offline_access", {"scopes_supported": ["openid"]}, "access_type"),
        ("openid", {}, "offline_access was not asked for"),
    ],
)
async def test_a_sign_in_without_a_refresh_token_says_what_to_change(
    scope: str, document: dict[str, Any], words: str
) -> None:
    async with running("strict", paired=False) as world:
        provider = Provider(Browser())
        provider.document, provider.tokens = document, {"refresh_token": None}
        with pytest.raises(LocalError, match="gave no refresh token") as caught:
            await sign_in(world, provider, scope)
        assert words in caught.value.hint


async def test_a_refusal_of_the_code_is_told_in_the_providers_words_without_what_was_sent() -> None:
    async with running("strict", paired=False) as world:
        for description, shown in (
            ("redirect_uri did not match\nthe registered one", " (redirect_uri did not match?the registered one)"),
            ("code c-marked is not known", ""),
            ("x" * 5_000, f" ({'x' * 8}…)"),
            (7, ""),
        ):
            provider = Provider(Browser(CodeReceived(Code("c-marked"))))
            provider.refusal = {"error": "invalid_grant", "error_description": description}
            with pytest.raises(PersonNeededError) as caught:
                await sign_in(world, provider)
            assert str(caught.value) == f"the provider refused the sign-in: invalid_grant{shown}"
            assert "registration of provider.client_id" in caught.value.hint


async def test_a_browser_that_is_not_accepted_is_told_and_the_wait_goes_on() -> None:
    async with running("strict", paired=False) as world:
        browser = Browser(NotAccepted("its state is wrong"), 10.0, CodeReceived(Code("c")))
        await sign_in(world, Provider(browser))
        assert [said.partition(":")[0] for said in browser.said] == ["a browser came back and was not accepted"]


async def test_a_person_before_an_error_page_is_told_once_what_may_be_wrong() -> None:
    async with running("strict", paired=False) as world:
        browser = Browser(1e9)
        with pytest.raises(PersonNeededError, match="ten minutes"):
            await sign_in(world, Provider(browser))
        (said,) = browser.said
        assert "the browser shows an error?" in said
        assert browser.redirect_uri in said


@pytest.mark.parametrize("case", cases("refusals"))
async def test_each_refusal_has_a_hint_that_fits(case: dict[str, str]) -> None:
    async with running("strict", paired=False) as world:
        browser = Browser(SignInRefused(case["error"], case.get("description", "")))
        said = f" ({case['description']})" if "description" in case else ""
        with pytest.raises(
            PersonNeededError, match=re.escape(f"refused the sign-in: {case['error']}{said}") + "$"
        ) as caught:
            await sign_in(world, Provider(browser))
        assert case["hint"] in caught.value.hint


# -- What the metadata says --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("metadata"))
async def test_what_cannot_work_is_told_before_the_sign_in(case: dict[str, Any]) -> None:
    provider = Provider(Browser())
    provider.document = {name: None if value == "NULL" else value for name, value in case["document"].items()}
    settings = settings_of(case)
    found = await find_metadata(provider, settings)
    assert isinstance(found, discovery.ProviderMetadata)
    asked = asked_scope(settings, found)
    said = foreseen(found, settings, asked)
    assert len(said) == len(case["says"]), said
    assert all(words in text for words, text in zip(case["says"], said, strict=True))
    assert case.get("revocation", "") in revocation_foreseen(found, settings)
    assert bool(case.get("revocation")) == bool(revocation_foreseen(found, settings))
    assert asked == case.get("asked", settings.scope)
    assert asked_prompt(settings, found) == case.get("prompt", "consent")


async def test_what_cannot_work_is_told_at_the_sign_in_itself() -> None:
    async with running("strict", paired=False) as world:
        provider = Provider(Browser())
        provider.document = {"code_challenge_methods_supported": ["plain"], "revocation_endpoint": None}
        await sign_in(world, provider)
        (said,) = provider.browser.said
        assert said.startswith("warning: ")
        assert "S256" in said


@pytest.mark.parametrize("case", cases("issuers"))
async def test_a_wrong_url_is_told_with_the_right_one(case: dict[str, str]) -> None:
    profile = PROFILES[case.get("profile", "strict")]
    issuer = case.get("issuer")

    class One:
        async def request(self, request: HttpRequest) -> HttpResponse:
            return answer(200, {"issuer": issuer, "token_endpoint": issuer}) if issuer else answer(404, {})

    is_entra = profile.name == "entra"
    found = await (discover_entra if is_entra else discovery.discover)(One(), case["url"])
    assert isinstance(found, discovery.DiscoveryFailed)
    hint = advice_about(found, profile)
    assert case["hint"] in hint
    assert ("tenant" in hint) == is_entra


async def test_a_wrong_url_is_told_at_the_sign_in() -> None:
    async with running("strict", paired=False) as world:
        provider = Provider(Browser())
        provider.document = {"issuer": "https://p.example/"}
        with pytest.raises(ConfigError, match="calls itself") as caught:
            await sign_in(world, provider)
        assert 'provider.url = "https://p.example/"' in caught.value.hint
