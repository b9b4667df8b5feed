"""What a person is asked, in which order, with which answers given beforehand; and how a conversation ends."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.provider.native_core import (
    AGE,
    MFA_USER,
    NAME,
    NEW,
    NEW_USER,
    OTP_USER,
    PASSWORD_USER,
    PREVERIFIED_USER,
    REGISTER_USER,
    RESET_USER,
    RIGHT,
    SMS,
    Core,
    wrong,
)
from tests.provider.provider_kit import CORRELATION_ID, TRACE_ID, entra_error, response
from token_relay.agents.phone.native import POLL_WAIT_S_MAX, Conversation, SignedIn
from token_relay.agents.phone.person import NotSignedIn, SignInLostError, SignInOptions
from token_relay.agents.ports import Now
from token_relay.protocol.errors import ConfigError, LocalError, PersonNeededError, RelayError, TransientError
from token_relay.provider.http import HttpRequest, HttpResponse
from token_relay.provider.native_auth.service import CAPABILITIES, Service
from token_relay.provider.profile import ENTRA

pytestmark = pytest.mark.asyncio
Say = str | None | Callable[[], str]
CASES = tomllib.loads((Path(__file__).parent / "cases/native_steps.toml").read_text("utf-8"))["case"]


@dataclass
class Clock:
    """Elapsed time that passes by sleeping; the provider's goes along."""

    core: Core
    slept: list[float] = field(default_factory=list)
    now_s: float = 0.0

    def now(self) -> Now:
        return Now("0" * 32, self.now_s, self.core.now, True)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        self.core.now += seconds

    async def wait(self, event: Any, seconds: float) -> bool:
        raise NotImplementedError


@dataclass
class Person:
    """Answers by kind, one after the other; ``None`` and an empty list mean no answer."""

    answers: dict[str, list[Say]]
    asked: list[tuple[str, str]] = field(default_factory=list)
    extras: list[dict[str, Any]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    async def ask(self, kind: Any, text: str, **extra: Any) -> str | None:
        self.asked.append((str(kind), text))
        self.extras.append(extra)
        left = self.answers.get(str(kind), [])
        say = left.pop(0) if left else None
        return say() if callable(say) else say

    async def progress(self, step: dict[str, Any]) -> None:
        self.told.append(str(step["message"]))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.asked]


@pytest.fixture
def core() -> Core:
    return Core()


def talk(core: Core, username: str, **options: Any) -> Callable[..., tuple[Conversation, Person, Clock]]:
    def with_answers(**answers: Iterable[Say]) -> tuple[Conversation, Person, Clock]:
        person = Person({kind: list(said) for kind, said in answers.items()})
        clock = Clock(core)
        return (
            Conversation(core.service(), person, SignInOptions(username=username, **options), clock),
            person,
            clock,
        )

    return with_answers


def mail(core: Core, address: str) -> Callable[[], str]:
    return lambda: core.mail(address).reveal()


PASSWORD = RIGHT.reveal()


async def test_only_the_password_is_asked_for_where_it_is_enough(core: Core) -> None:
    conversation, person, _ = talk(core, PASSWORD_USER)(password=[PASSWORD])
    done = await conversation.sign_in()
    assert not done.is_by_code
    assert person.asked == [("password", f"password of {PASSWORD_USER}")]


async def test_a_code_account_is_asked_for_its_code_and_may_have_it_sent_again(core: Core) -> None:
    conversation, person, _ = talk(core, OTP_USER)(code=["", " ", mail(core, OTP_USER)])
    done = await conversation.sign_in()
    assert done.is_by_code
    assert person.kinds == ["code"] * 3
    assert person.extras[0] == {"code_length": 8, "can_resend": True, "resend_after_s": 300.0}
    assert person.told == ["a new code was sent; the older one is void"] * 2
    assert core.paths().count("oauth2/v2.0/challenge") == 3


async def test_a_wrong_code_says_how_many_tries_are_left_and_its_trace_id(core: Core) -> None:
    conversation, person, _ = talk(core, OTP_USER)(
        code=[lambda: wrong(core.mail(OTP_USER)).reveal(), mail(core, OTP_USER)]
    )
    await conversation.sign_in()
    assert person.asked[1][1].startswith("code sent by email to o") and person.asked[1][1].endswith(", once more")
    (told,) = person.told  # once: the question does not repeat it
    assert told.startswith("wrong code, 2 tries left (invalid_grant invalid_oob_value 50181) [trace ")


async def test_a_code_of_another_length_costs_no_try(core: Core) -> None:
    conversation, person, _ = talk(core, OTP_USER)(code=["123", mail(core, OTP_USER)])
    await conversation.sign_in()
    assert person.asked[1][1].endswith(", once more") and person.told == ["a code has 8 characters"]
    assert core.paths().count("oauth2/v2.0/token(oob)") == 1


async def test_three_wrong_codes_end_it(core: Core) -> None:
    def bad() -> str:
        return wrong(core.mail(OTP_USER)).reveal()

    conversation, person, _ = talk(core, OTP_USER)(code=[bad] * 9)
    with pytest.raises(PersonNeededError, match=r"three wrong codes \[trace ") as caught:
        await conversation.sign_in()
    assert caught.value.hint == "run the command again for a new code"
    assert len(person.asked) == 3


async def test_three_wrong_passwords_end_it(core: Core) -> None:
    conversation, person, _ = talk(core, PASSWORD_USER)(password=["wrong"] * 9)
    with pytest.raises(PersonNeededError, match=r"3 wrong passwords \[trace ") as caught:
        await conversation.sign_in()
    assert caught.value.hint == f"token-relay phone reset-password --username {PASSWORD_USER}"
    assert len(person.asked) == 3
    assert conversation.failure is not None and conversation.failure.codes == (50126,)


async def test_resending_has_an_end(core: Core) -> None:
    conversation, _, _ = talk(core, OTP_USER)(code=[""] * 20)
    with pytest.raises(PersonNeededError, match="5 codes were sent again"):
        await conversation.sign_in()


async def test_a_resend_that_is_throttled_leaves_the_older_code_good(core: Core) -> None:
    def throttled() -> str:
        core.instead(429, entra_error("temporarily_unavailable", 90055), {"retry-after": "30"})
        return ""

    conversation, person, _ = talk(core, OTP_USER)(code=[throttled, mail(core, OTP_USER)])
    await conversation.sign_in()
    assert person.told[0].startswith("no new code was sent: ")


async def test_a_second_factor_is_chosen_from_a_list(core: Core) -> None:
    conversation, person, _ = talk(core, MFA_USER)(password=[PASSWORD], choice=[None], code=[])
    with pytest.raises(PersonNeededError, match="email m") as caught:
        await conversation.sign_in()
    assert caught.value.hint == "add --mfa-method"
    choices = person.extras[1]["choices"]
    assert [choice["text"].split()[0] for choice in choices] == ["email", "sms"]

    core = Core()
    conversation, person, _ = talk(core, MFA_USER)(
        password=[PASSWORD], choice=[choices[1]["value"]], code=[mail(core, SMS)]
    )
    ids = [one["value"] for one in choices]
    assert (await conversation.sign_in()).tokens.refresh_token is not None
    assert person.kinds == ["password", "choice", "code"]
    assert len(set(ids)) == 2


@pytest.mark.parametrize("method", ["sms", "email"])
async def test_a_second_factor_named_beforehand_is_not_asked_for(method: str, core: Core) -> None:
    address = SMS if method == "sms" else MFA_USER
    conversation, person, _ = talk(core, MFA_USER, mfa_method=method)(password=[PASSWORD], code=[mail(core, address)])
    await conversation.sign_in()
    assert person.kinds == ["password", "code"]


async def test_a_method_that_the_account_has_not_is_asked_for(core: Core) -> None:
    conversation, person, _ = talk(core, MFA_USER, mfa_method="carrier pigeon")(password=[PASSWORD])
    with pytest.raises(PersonNeededError, match="second factor by one of"):
        await conversation.sign_in()
    assert person.kinds == ["password", "choice"]


async def test_a_method_that_is_blocked_is_not_chosen_again_by_itself(core: Core) -> None:
    core.order("policy", blocked_contacts=[SMS])
    conversation, person, _ = talk(core, MFA_USER, mfa_method="sms")(password=[PASSWORD])
    with pytest.raises(PersonNeededError):
        await conversation.sign_in()
    assert person.asked[-1] == ("choice", "second factor by")
    assert person.told[-1].startswith("the provider does not send codes to this address (")


async def test_a_method_is_registered_with_the_address_that_is_typed(core: Core) -> None:
    conversation, person, _ = talk(core, REGISTER_USER)(
        password=[PASSWORD], choice=["sms"], contact=["+14255550177"], code=[mail(core, "+14255550177")]
    )
    await conversation.sign_in()
    assert person.kinds == ["password", "choice", "contact", "code"]
    assert person.extras[2] == {"channel": "sms", "proposal": ""}


async def test_the_proposed_address_is_taken_on_an_empty_answer_and_needs_no_code_where_it_is_proven(
    core: Core,
) -> None:
    conversation, person, _ = talk(core, PREVERIFIED_USER)(password=[PASSWORD], choice=["email"], contact=[""])
    await conversation.sign_in()
    assert person.kinds == ["password", "choice", "contact"]
    assert person.extras[2]["proposal"] == PREVERIFIED_USER


async def test_a_contact_given_beforehand_is_registered_without_asking(core: Core) -> None:
    conversation, person, _ = talk(core, REGISTER_USER, contact="other@contoso.example")(
        password=[PASSWORD], code=[mail(core, "other@contoso.example")]
    )
    await conversation.sign_in()
    assert person.kinds == ["password", "code"]


async def test_a_bad_contact_is_asked_for_again(core: Core) -> None:
    conversation, person, _ = talk(core, REGISTER_USER, contact="+1")(
        password=[PASSWORD], choice=["sms"], contact=["+14255550177"], code=[mail(core, "+14255550177")]
    )
    await conversation.sign_in()
    assert person.kinds[1] == "choice"
    assert person.told[0].startswith("the provider does not accept this address or number (")


async def test_a_channel_that_the_tenant_does_not_register_is_told(core: Core) -> None:
    core.order("policy", registration_channels=["sms"])
    conversation, _, _ = talk(core, REGISTER_USER, contact="a@b.example")(password=[PASSWORD])
    with pytest.raises(PersonNeededError, match="does not register email, only: sms"):
        await conversation.sign_in()


async def test_a_flow_that_expired_is_begun_anew_without_asking_for_the_password_again(core: Core) -> None:
    def late() -> str:
        code = core.mail(MFA_USER).reveal()
        core.now += 901
        return code

    conversation, person, _ = talk(core, MFA_USER, mfa_method="email")(
        password=[PASSWORD], code=[late, mail(core, MFA_USER)]
    )
    await conversation.sign_in()
    assert person.kinds == ["password", "code", "code"]


async def test_access_tokens_are_counted_from_before_the_request_that_brought_them(core: Core) -> None:
    conversation, _, clock = talk(core, PASSWORD_USER)(password=[PASSWORD])
    clock.now_s = 5.0
    send = core.request

    async def slow(request: Any) -> Any:
        answer = await send(request)
        if len(core.calls) == 3:
            clock.now_s = 65.0  # the answer took a minute
        return answer

    core.request = slow  # type: ignore[method-assign]  # the network, slowed down
    done = await conversation.sign_in()
    assert done.sent.boot_s == 5.0


# -- Sign-up and reset -------------------------------------------------------------------------------------


async def test_sign_up_asks_for_code_password_and_what_is_missing(core: Core) -> None:
    core.order("policy", required_attributes=[NAME, AGE])
    conversation, person, _ = talk(core, NEW_USER, attributes={"displayName": "Ann"})(
        code=[mail(core, NEW_USER)], new_password=["short", NEW.reveal()], attribute=["old", "42"]
    )
    done = await conversation.sign_up()
    assert isinstance(done, SignedIn) and not done.is_by_code
    assert person.kinds == ["code", "new_password", "new_password", "attribute", "attribute"]
    assert person.asked[2][1] == f"new password of {NEW_USER}, another one"
    assert person.told[0].startswith("the password is too short (")
    assert person.extras[3] == {"name": "extension_1_age", "type": "Int64", "pattern": "^[1-9][0-9]*$"}
    assert person.asked[4][1] == "not accepted, once more: extension_1_age"


async def test_a_correction_comes_with_all_that_was_told_before(core: Core) -> None:
    core.order("policy", required_attributes=[NAME, AGE])
    conversation, person, _ = talk(core, NEW_USER)(
        code=[mail(core, NEW_USER)], new_password=[NEW.reveal()], attribute=["Ann", "old", "42"]
    )
    assert isinstance(await conversation.sign_up(), SignedIn)
    assert person.kinds.count("attribute") == 3


async def test_sign_up_without_a_password_makes_a_code_account(core: Core) -> None:
    conversation, person, _ = talk(core, NEW_USER, with_password=False)(code=[mail(core, NEW_USER)])
    done = await conversation.sign_up()
    assert isinstance(done, SignedIn) and done.is_by_code
    assert person.kinds == ["code"]


async def test_sign_up_of_a_known_name_points_to_sign_in(core: Core) -> None:
    conversation, _, _ = talk(core, PASSWORD_USER)()
    with pytest.raises(PersonNeededError, match="there is an account") as caught:
        await conversation.sign_up()
    assert caught.value.hint.startswith("token-relay phone sign-in --username ") and "@" in caught.value.hint


async def test_attributes_that_nobody_tells_are_named(core: Core) -> None:
    core.order("policy", required_attributes=[NAME, AGE])
    conversation, _, _ = talk(core, NEW_USER)(code=[mail(core, NEW_USER)], new_password=[NEW.reveal()])
    with pytest.raises(PersonNeededError, match="displayName, extension_1_age") as caught:
        await conversation.sign_up()
    assert caught.value.hint == "add --attributes-file FILE"


async def test_an_account_that_exists_is_told_though_the_sign_in_after_it_failed(core: Core) -> None:
    core.order("faults", name="refuse", endpoint="token", error="interaction_required", code=53003)
    conversation, _, _ = talk(core, NEW_USER)(code=[mail(core, NEW_USER)], new_password=[NEW.reveal()])
    done = await conversation.sign_up()
    assert isinstance(done, NotSignedIn)
    assert done.done == "account_created"
    assert "blocks this sign-in" in done.reason


async def test_a_declined_second_factor_after_a_sign_up_does_not_hide_the_account(core: Core) -> None:
    core.order("policy", sign_up_mfa="register")
    conversation, _, _ = talk(core, NEW_USER)(code=[mail(core, NEW_USER)], new_password=[NEW.reveal()])
    done = await conversation.sign_up()
    assert isinstance(done, NotSignedIn) and done.done == "account_created"


async def test_reset_asks_for_code_and_new_password_and_signs_in(core: Core) -> None:
    core.order("policy", reset_duration_s=5)
    conversation, person, clock = talk(core, RESET_USER)(
        code=[mail(core, RESET_USER)], new_password=[PASSWORD, NEW.reveal()]
    )
    assert isinstance(await conversation.reset_password(), SignedIn)
    assert person.kinds == ["code", "new_password", "new_password"]
    assert person.asked[2][1] == f"new password of {RESET_USER}, another one"
    assert person.told[0].startswith("the password was used before (")
    assert clock.slept == [2.0, 2.0, 2.0]


async def test_a_reset_that_is_never_settled_ends_after_five_minutes(core: Core) -> None:
    core.order("policy", reset_duration_s=3600)
    conversation, _, clock = talk(core, RESET_USER)(code=[mail(core, RESET_USER)], new_password=[NEW.reveal()])
    with pytest.raises(TransientError) as caught:
        await conversation.reset_password()
    assert caught.value.hint == "try to sign in with it"
    assert sum(clock.slept) == POLL_WAIT_S_MAX


async def test_a_poll_that_meets_no_network_goes_on(core: Core) -> None:
    conversation, _, clock = talk(core, RESET_USER)(code=[mail(core, RESET_USER)], new_password=[NEW.reveal()])
    send = core.request

    async def flaky(request: Any) -> Any:
        if request.url.endswith("poll_completion") and not clock.slept:
            core.vanish(sent=False)
        return await send(request)

    core.request = flaky  # type: ignore[method-assign]  # the network, gone for one request
    assert isinstance(await conversation.reset_password(), SignedIn)
    assert clock.slept == [2.0]


async def test_five_refused_passwords_end_it(core: Core) -> None:
    conversation, person, _ = talk(core, RESET_USER)(code=[mail(core, RESET_USER)], new_password=["short"] * 9)
    with pytest.raises(PersonNeededError, match=r"5 passwords were not accepted \[trace "):
        await conversation.reset_password()
    assert person.kinds.count("new_password") == 5


# -- How it ends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "kind", "hint"),
    [
        ("user_not_found", 50034, PersonNeededError, "sign-up"),
        ("unauthorized_client", 700016, ConfigError, "correct provider.client_id or provider.tenant"),
        ("invalid_client", 7000218, ConfigError, "switch native authentication on"),
        ("invalid_scope", 70011, ConfigError, "scope"),
        ("interaction_required", 53003, PersonNeededError, "--browser"),
        ("consent_required", 65001, PersonNeededError, ""),
        ("invalid_request", 50142, PersonNeededError, "reset-password"),
        ("invalid_grant", 50055, PersonNeededError, "reset-password"),
        ("server_error", 90033, TransientError, "run the command again in a minute"),
        ("temporarily_unavailable", 90055, TransientError, "run the command again in a minute"),
    ],
)
async def test_an_error_says_what_to_do_and_has_the_ids_for_support(
    error: str, code: int, kind: type[Exception], hint: str, core: Core
) -> None:
    conversation, _, _ = talk(core, PASSWORD_USER)(password=[PASSWORD])
    core.instead(200, {"continuation_token": "x"})
    core.instead(200, {"continuation_token": "y", "challenge_type": "password"})
    core.instead(500 if error == "server_error" else 400, entra_error(error, code))
    with pytest.raises(kind) as caught:
        await conversation.sign_in()
    assert hint in caught.value.hint  # type: ignore[attr-defined]  # all of them have one
    if kind is not TransientError:
        assert f"[trace {TRACE_ID}, correlation {CORRELATION_ID}]" in str(caught.value)
        assert str(code) in str(caught.value)


@pytest.mark.parametrize(("at", "is_lost"), [(0, False), (1, False), (2, True)])
async def test_only_a_lost_answer_with_tokens_counts_as_a_lost_sign_in(at: int, is_lost: bool, core: Core) -> None:
    conversation, _, _ = talk(core, PASSWORD_USER)(password=[PASSWORD])
    send = core.request

    async def losing(request: Any) -> Any:
        if len(core.calls) == at:
            core.vanish(sent=True)
        return await send(request)

    core.request = losing  # type: ignore[method-assign]  # the network, cut once
    with pytest.raises(TransientError) as caught:
        await conversation.sign_in()
    assert isinstance(caught.value, SignInLostError) is is_lost


async def test_a_redirect_points_to_the_browser(core: Core) -> None:
    core.instead(200, {"challenge_type": "redirect"})
    conversation, _, _ = talk(core, PASSWORD_USER)()
    with pytest.raises(PersonNeededError) as caught:
        await conversation.sign_in()
    assert caught.value.hint == "use: token-relay phone sign-in --browser"


async def test_a_provider_that_leads_in_a_circle_is_left(core: Core) -> None:
    conversation, person, _ = talk(core, OTP_USER)(code=["123"] * 99)
    with pytest.raises(LocalError, match="more than 40 things"):
        await conversation.sign_in()
    assert len(person.asked) == 40


async def test_a_provider_that_wants_to_know_ever_more_is_left(core: Core) -> None:
    names = [{"name": f"a{number}"} for number in range(32)]
    conversation, person, _ = talk(core, NEW_USER)(
        code=[mail(core, NEW_USER)], new_password=[NEW.reveal()], attribute=["x"] * 999
    )
    send = core.request

    async def greedy(request: Any) -> Any:
        if core.calls and core.calls[-1][1].get("grant_type") in ("password", "attributes"):
            core.instead(
                400, entra_error("attributes_required", 55106, continuation_token="x", required_attributes=names)
            )
        return await send(request)

    core.order("policy", required_attributes=[NAME])
    core.request = greedy  # type: ignore[method-assign]  # a provider that is never content
    with pytest.raises(LocalError, match="more than 60 questions"):
        await conversation.sign_up()
    assert len(person.asked) == 60


async def test_nobody_there_names_the_option_that_would_help(core: Core) -> None:
    for username, way, option in (
        (PASSWORD_USER, "sign_in", "--password-file"),
        (OTP_USER, "sign_in", "--otp-file"),
        (RESET_USER, "reset_password", "--otp-file"),
    ):
        conversation, _, _ = talk(core, username)()
        with pytest.raises(PersonNeededError) as caught:
            await getattr(conversation, way)()
        assert option in caught.value.hint
    conversation, _, _ = talk(core, NEW_USER)(code=[mail(core, NEW_USER)])
    with pytest.raises(PersonNeededError) as caught:
        await conversation.sign_up()
    assert "--new-password-file" in caught.value.hint


# -- Answers of the field ----------------------------------------------------------------------------------


class Canned:
    """A tenant that gives these answers, one after the other."""

    def __init__(self, answers: list[dict[str, Any]]) -> None:
        self.left = list(answers)

    async def request(self, request: HttpRequest) -> HttpResponse:
        answer = self.left.pop(0)
        return response(answer["status"], answer["body"])


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
async def test_how_a_sign_in_of_the_field_ends(case: dict[str, Any], core: Core) -> None:
    http = Canned(case["answers"])
    person = Person({"password": [PASSWORD] * 9, "code": case.get("codes", [])})
    options = SignInOptions(username="ann@contoso.example", mfa_method=case.get("mfa_method", ""))
    service = Service(http, ENTRA, "https://contoso.ciamlogin.com/contoso", "app", capabilities=CAPABILITIES)
    kind, words, hint = case["ends"]
    with pytest.raises(RelayError) as caught:
        await Conversation(service, person, options, Clock(core)).sign_in()
    assert type(caught.value).__name__ == kind
    assert words in str(caught.value)
    assert hint in caught.value.hint
    assert person.kinds == case["asked"]
    assert http.left == []
