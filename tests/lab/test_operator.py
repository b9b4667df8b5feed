"""The operator's pages: what a form does is seen at the provider, and what is wrong is said."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.lab.visitor import Shown, Visitor, visiting
from token_relay.sandbox.marked_tokens import find_marked
from token_relay.sandbox.provider.world.model import PASSWORD

PASSWORD_USER, OTP_USER = "password@contoso.example", "otp@contoso.example"
SCOPE = "openid profile offline_access"

pytestmark = pytest.mark.asyncio


async def call(visitor: Visitor, path: str, **form: str) -> dict[str, Any]:
    """Call the provider as a client does, and return its answer."""
    room = visitor.lab.room
    _, body = await room.live.call("POST", f"{room.authority}{path}", {"client_id": client_of(visitor), **form})
    return dict(body)


def client_of(visitor: Visitor) -> str:
    return next(iter(visitor.sandbox.provider.state.clients))


async def sign_in(visitor: Visitor, password: str = PASSWORD) -> dict[str, Any]:
    begun = await call(visitor, "/oauth2/v2.0/initiate", username=PASSWORD_USER, challenge_type="password redirect")
    if "continuation_token" not in begun:
        return begun
    token = begun["continuation_token"]
    chosen = await call(visitor, "/oauth2/v2.0/challenge", continuation_token=token, challenge_type="password redirect")
    return await call(
        visitor,
        "/oauth2/v2.0/token",
        continuation_token=chosen["continuation_token"],
        grant_type="password",
        password=password,
        scope=SCOPE,
    )


async def refresh(visitor: Visitor, tokens: dict[str, Any]) -> dict[str, Any]:
    return await call(
        visitor, "/oauth2/v2.0/token", grant_type="refresh_token", refresh_token=tokens["refresh_token"], scope=SCOPE
    )


async def confirmed(visitor: Visitor, page: Shown, value: str = "yes") -> Shown:
    """Answer the question on a conversation's page."""
    assert page.status == 200, page.words
    return await visitor.post(f"{page.place}/answer", number=page.values("/answer")["number"], value=value)


async def test_a_user_is_added_and_shown_with_grants_mailbox_and_what_happened() -> None:
    async with visiting() as visitor:
        page = await visitor.post(
            "orders/user", username="Ann@contoso.example", password="a-Long-one-7", name="Ann", sms="+14255550123"
        )
        assert page.place == "users" and "ann@contoso.example" in page.words
        await sign_in(visitor)
        page = await visitor.get(f"users/{PASSWORD_USER}")
        assert "1" in page.words and "alive" in page.words and "Signs a person in, and begins a grant" in page.words
        assert page.traces and await visitor.is_logged(page.traces[0])
        assert "No code waits." in page.words
        ann = (await visitor.get("users/ann%40contoso.example")).words
        assert "sms +14255550123" in ann and "None: nobody has signed in." in ann


async def test_a_code_that_waits_is_read_by_a_press() -> None:
    async with visiting() as visitor:
        begun = await call(visitor, "/oauth2/v2.0/initiate", username=OTP_USER, challenge_type="oob redirect")
        await call(visitor, "/oauth2/v2.0/challenge", challenge_type="oob redirect", **begun)
        page = await visitor.get(f"users/{OTP_USER}")
        code = visitor.sandbox.provider.state.mailboxes[OTP_USER].code.reveal()
        assert f"A code waits at {OTP_USER}" in page.words and code not in page.text
        assert code not in (await visitor.get(f"users/{OTP_USER}/mail?address={OTP_USER}")).text
        read = await visitor.post(f"users/{OTP_USER}/mail", address=OTP_USER)
        assert code in read.words
        nothing = await visitor.post(f"users/{OTP_USER}/mail", address="nobody@contoso.example")
        assert nothing.status == 400 and "no code has been sent there" in nothing.words.lower()


async def test_revoking_asks_and_then_ends_the_grant() -> None:
    async with visiting() as visitor:
        tokens = await sign_in(visitor)
        page = await confirmed(visitor, await visitor.post(f"users/{PASSWORD_USER}/revoke"), "no")
        assert "nothing was changed" in page.words.lower() and "refresh_token" in await refresh(visitor, tokens)
        page = await confirmed(visitor, await visitor.post(f"users/{PASSWORD_USER}/revoke"))
        assert "done" in page.words.lower()
        assert (await refresh(visitor, tokens))["error_codes"] == [50173]


async def test_an_account_is_switched_off_and_on_again() -> None:
    async with visiting() as visitor:
        tokens = await sign_in(visitor)
        await confirmed(visitor, await visitor.post(f"users/{PASSWORD_USER}/disable"))
        assert "switched off" in (await visitor.get("users")).words
        assert (await refresh(visitor, tokens))["error_codes"] == [50057]
        await confirmed(visitor, await visitor.post(f"users/{PASSWORD_USER}/enable"))
        assert "refresh_token" in await refresh(visitor, tokens)


async def test_a_deleted_account_is_gone_with_all_that_it_has_signed_in_to() -> None:
    async with visiting() as visitor:
        tokens = await sign_in(visitor)
        await confirmed(visitor, await visitor.post(f"users/{PASSWORD_USER}/delete"))
        assert PASSWORD_USER not in (await visitor.get("users")).words
        assert "error" in await refresh(visitor, tokens)
        assert (await sign_in(visitor))["error"] == "user_not_found"
        gone = await visitor.get(f"users/{PASSWORD_USER}")
        assert gone.status == 400 and "there is no such user" in gone.words.lower()


async def test_a_new_password_ends_what_the_old_one_signed_in() -> None:
    async with visiting() as visitor:
        tokens = await sign_in(visitor)
        asking = await visitor.post(f"users/{PASSWORD_USER}/password")
        assert 'type="password"' in asking.text
        number = asking.values("/answer")["number"]
        other = await visitor.post(f"{asking.place}/answer", number=number, value="one", again="two")
        assert other.status == 400 and "the two are not the same" in other.words.lower()
        chosen = "Another-one-8"
        page = await visitor.post(f"{asking.place}/answer", number=number, value=chosen, again=chosen)
        assert "the password was changed" in page.words.lower() and chosen not in page.text
        assert (await refresh(visitor, tokens))["error_codes"] == [50173]
        assert (await sign_in(visitor))["error_codes"] == [50126]
        assert "access_token" in await sign_in(visitor, chosen)
        asking = await visitor.post(f"users/{PASSWORD_USER}/password")
        page = await visitor.post(f"{asking.place}/answer", number="1", decline="yes")
        assert "nothing was changed" in page.words.lower()


async def test_a_password_is_not_given_to_an_account_that_signs_in_with_a_code() -> None:
    async with visiting() as visitor:
        asking = await visitor.post(f"users/{OTP_USER}/password")
        page = await visitor.post(f"{asking.place}/answer", number="1", value="x", again="x")
        assert "this account has no password" in page.words.lower()


async def test_browsers_are_signed_out_and_a_password_expires() -> None:
    async with visiting() as visitor:
        await confirmed(visitor, await visitor.post(f"users/{PASSWORD_USER}/sign-out"))
        await confirmed(visitor, await visitor.post(f"users/{PASSWORD_USER}/expire"))
        causes = [event["cause"] for event in await visitor.events() if event["kind"] == "account_event"]
        assert causes == ["single_sign_out", "password_expired"]
        assert (await sign_in(visitor))["error_codes"] in ([50055], [50142])


async def test_a_client_is_added_and_the_policy_changed() -> None:
    async with visiting() as visitor:
        added = await visitor.post(
            "orders/client",
            client_id="mine",
            app_type="spa",
            spa="yes",
            redirect_uris="https://a.example/x\nhttps://b.example",
        )
        assert added.place == "tenant" and "https://a.example/x https://b.example" in added.words
        assert visitor.sandbox.provider.state.clients["mine"].spa
        await visitor.post("orders/policy", knob="access_token_lifetime_s", value="61")
        assert (await sign_in(visitor))["expires_in"] == 61
        await visitor.post("orders/policy", knob="otp_refresh_mode", value="sliding")
        await visitor.post("orders/policy", knob="leeway_s", value="2.5")
        page = await visitor.get("tenant")
        assert 'otp_refresh_mode "sliding"' in page.words and "leeway_s 2.5 (2 s)" in page.words
        assert "conditional_access null" in page.words and "cae false" in page.words


async def test_faults_are_armed_met_and_cleared() -> None:
    async with visiting() as visitor:
        tokens = await sign_in(visitor)
        page = await visitor.post("orders/fault", name="error_503", endpoint="token", times="1", retry_after_s="3")
        assert page.place == "switches" and "error_503, endpoint token: 1 left" in page.words
        assert "access_token" not in await refresh(visitor, tokens)
        assert "None is armed." in (await visitor.get("switches")).words
        await visitor.post(
            "orders/fault", name="refuse", error="invalid_grant", code="70008", times="0", committed="yes"
        )
        assert "refuse, error invalid_grant: every request" in (await visitor.get("switches")).words
        assert (await refresh(visitor, tokens))["error_codes"] == [70008]
        assert "None is armed." in (await visitor.post("orders/clear")).words
        assert "refresh_token" in await refresh(visitor, tokens)


ANIMAL = """
source = "https://example.com/gateway"
seen = "a gateway in front of the provider"
profiles = ["entra"]
[answer]
status = 502
body = "<html>bad gateway</html>"
[then]
grant = "held"
caller = "offline"
"""


async def test_an_answer_from_the_field_is_met_word_for_word() -> None:
    async with visiting() as visitor:
        tokens = await sign_in(visitor)
        page = await visitor.post("orders/animal", animal=ANIMAL)
        assert page.status == 200 and "answer, endpoint token, grant type refresh_token: 1 left" in page.words
        await refresh(visitor, tokens)
        assert visitor.lab.room.live.calls[0].status == 502
        assert "refresh_token" in await refresh(visitor, tokens)


async def test_the_clock_goes_forward_and_the_code_with_it() -> None:
    async with visiting() as visitor:
        begun = await call(visitor, "/oauth2/v2.0/initiate", username=OTP_USER, challenge_type="oob redirect")
        await call(visitor, "/oauth2/v2.0/challenge", challenge_type="oob redirect", **begun)
        page = await visitor.post("orders/clock", amount="1.5", unit="hours")
        assert page.place == "switches" and "1 h 30 min ahead" in page.words
        assert "No code waits." in (await visitor.get(f"users/{OTP_USER}")).words


async def test_a_rule_is_switched_off_and_kept_again() -> None:
    async with visiting() as visitor:
        assert visitor.sandbox.provider.state.keeps("capabilities")
        await visitor.post("orders/lenient", name="capabilities")
        assert not visitor.sandbox.provider.state.keeps("capabilities")
        await visitor.post("orders/keep")
        assert visitor.sandbox.provider.state.keeps("capabilities")


async def test_the_provider_signs_with_a_new_key_and_keeps_the_old_one_if_asked() -> None:
    async with visiting() as visitor:

        async def kids() -> list[str]:
            _, body = await visitor.lab.room.live.call("GET", f"{visitor.lab.room.authority}/discovery/v2.0/keys")
            keys: Any = body["keys"]
            return [key["kid"] for key in keys]

        (first,) = await kids()
        await visitor.post("orders/keys", keep_old="yes")
        assert first in await kids() and len(await kids()) == 2
        await visitor.post("orders/keys")
        assert first not in await kids()


@pytest.mark.parametrize(
    ("order", "fields", "said"),
    [
        ("clock", {"amount": "soon", "unit": "hours"}, "amount: a number is wanted"),
        ("clock", {"amount": "", "unit": "hours"}, "say by how much the clock goes forward"),
        ("clock", {"amount": "-1", "unit": "days"}, "advance_s"),
        ("fault", {"name": "nothing"}, "name"),
        ("fault", {"name": "slow"}, "seconds"),
        ("animal", {"animal": "= ="}, "not toml"),
        ("animal", {"animal": "x = 1"}, "animal"),
        ("policy", {"knob": "code_length", "value": "1"}, "code_length"),
        ("policy", {"knob": "nothing", "value": "1"}, "nothing"),
        ("user", {"username": ""}, "username"),
        ("user", {"username": "a@b.example", "sms": "12"}, "target"),
        ("client", {"client_id": ""}, "client_id"),
        ("lenient", {"name": "all"}, "name"),
        ("link", {"link": "all", "order": "burn"}, "choose what is done to the link"),
        ("link", {"link": "all", "order": "heal"}, "without links"),
    ],
)
async def test_what_is_wrong_in_a_form_is_said_and_changes_nothing(
    order: str, fields: dict[str, str], said: str
) -> None:
    async with visiting() as visitor:
        page = await visitor.post(f"orders/{order}", **fields)
        assert page.status == 400 and "Not possible" in page.words and said in page.words.lower(), page.words


async def test_an_order_is_a_form_and_nothing_else() -> None:
    async with visiting() as visitor:
        assert (await visitor.get("orders/clear")).place == "switches"
        assert (await visitor.get(f"users/{OTP_USER}/revoke")).place.startswith("users/")
        assert (await visitor.get(f"users/{OTP_USER}/password")).place.startswith("users/")
        assert (await visitor.get(f"users/{OTP_USER}/mail")).place.startswith("users/")
        assert (await visitor.post("orders/nothing")).status == 404
        assert not [event for event in await visitor.events() if event["kind"] == "token_revoked"]


# -- The log, and what went wrong --------------------------------------------------------------------------


async def test_the_log_is_filtered_by_either_id_by_user_and_by_endpoint() -> None:
    async with visiting() as visitor:
        room = visitor.lab.room
        mine = "11112222-3333-4444-5555-666677778888"
        headers = {"client-request-id": mine}
        form = {"client_id": client_of(visitor), "username": OTP_USER, "challenge_type": "oob redirect"}
        one, _ = await room.live.call("POST", f"{room.authority}/oauth2/v2.0/initiate", form, headers)
        await sign_in(visitor)
        assert one.correlation_id == mine
        for wanted in (one.trace_id, mine, mine[:8], one.trace_id[:8].upper()):
            page = await visitor.get(f"log?trace={wanted}")
            assert page.traces == [one.trace_id], wanted
        assert "Signs a person in" in (await visitor.get(f"log?user={PASSWORD_USER}")).words
        assert "No line fits." in (await visitor.get("log?user=nobody")).words
        assert "initiate" not in (await visitor.get("log?endpoint=token")).words.partition("Find")[2]
        assert "No line fits." in (await visitor.get("log?trace=1111")).words


async def test_auth0_s_own_log_stands_in_the_log_too() -> None:
    async with visiting("auth0") as visitor:
        room, state = visitor.lab.room, visitor.sandbox.provider.state
        client = next(one for one in state.clients.values() if not one.is_confidential)
        form = {"grant_type": "refresh_token", "client_id": client.client_id, "refresh_token": "rt.none"}
        await room.live.call("POST", "/oauth/token", form)
        page = await visitor.get("log")
        assert "Log fertft: Unknown or invalid refresh token." in page.words


async def test_trouble_shows_the_call_the_provider_s_lines_and_what_to_do() -> None:
    async with visiting() as visitor:
        assert "Nothing has gone wrong yet." in (await visitor.get("trouble")).words
        await sign_in(visitor, "wrong")
        refused = visitor.lab.room.live.calls[0]
        latest = await visitor.get("trouble")
        assert refused.trace_id in latest.traces and "Refuses a sign-in" in latest.words
        page = await visitor.get(f"trouble?trace={refused.trace_id}")
        assert "50126 wrong password type the password again" in page.words and "invalid_grant the" not in page.words
        assert f"The lab : It called POST {visitor.lab.room.authority}/oauth2/v2.0/token and got 400" in page.words
        assert "Provider : Refuses a sign-in" in page.words
        assert "password=(hidden)" in page.words and "password=wrong" not in page.text
        assert "No line has this id." in (await visitor.get("trouble?trace=abcdefgh")).words


async def test_lines_are_in_order_although_the_provider_s_clock_was_put_forward() -> None:
    before = f"{datetime.now(UTC):%Y-%m-%d}"
    async with visiting() as visitor:
        await sign_in(visitor, "wrong")
        await visitor.post("orders/clock", amount="3", unit="days")
        await sign_in(visitor, "wrong")
        words = (await visitor.get("trouble")).words
        newest, oldest = (visitor.lab.room.live.calls[at].trace_id for at in (0, 3))
        assert words.index(newest[:8]) < words.index(oldest[:8])
        days = {word for word in words.split() if re.fullmatch(r"20\d\d-\d\d-\d\d", word)}
        assert days <= {before, f"{datetime.now(UTC):%Y-%m-%d}"}, "three days later by the provider's clock alone"


async def test_nothing_marked_is_in_any_page_of_the_operator() -> None:
    async with visiting() as visitor:
        tokens = await sign_in(visitor)
        await refresh(visitor, tokens)
        trace = visitor.lab.room.live.calls[0].trace_id
        places = ["users", f"users/{PASSWORD_USER}", "tenant", "switches", "log", "trouble", f"trouble?trace={trace}"]
        for place in places:
            page = await visitor.get(place)
            assert page.status == 200, place
            assert not find_marked(page.text.encode()), place
            assert PASSWORD not in page.text and str(tokens["access_token"]) not in page.text, place
