"""Native authentication by the command line, against a real sandbox: what a person types, and what a script gives."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.e2e.kit import PASSWORD, PASSWORD_USER, Phone, World
from tests.e2e.terminal import Terminal

pytestmark = pytest.mark.asyncio

MFA_USER, REGISTER_USER = "mfa@contoso.example", "register@contoso.example"
PREVERIFIED_USER, RESET_USER, NEW_USER = "preverified@contoso.example", "reset@contoso.example", "new@contoso.example"
SMS, NEW = "+14255550100", "Wrong-Horse-8"
AGE = {"name": "extension_1_age", "type": "Int64", "required": True, "regex": "^[1-9][0-9]*$"}
NAME = {"name": "displayName", "type": "String", "required": True}


def terminal(world: World, phone: Phone, *words: str) -> Terminal:
    return Terminal("phone", *words, "--home", str(phone.home), env=world.env, cwd=world.directory)


def mailbox_command(world: World, address: str) -> str:
    """A command that prints the code, as a script would have one."""
    url = f"{world.sandbox.http}/sandbox/mailbox/{address}?wait_s=10"
    return f"{sys.executable} -c 'import urllib.request as u; print(u.urlopen(\"{url}\").read().decode())'"


async def signed_in(phone: Phone) -> dict[str, Any]:
    (account,) = (await phone.status())["accounts"]
    assert account["state"] == "held"
    assert await phone.gets_in()
    return dict(account)


async def test_a_person_signs_in_with_a_second_factor_of_his_choice() -> None:
    async with World() as world:
        phone = await world.phone()
        async with terminal(world, phone, "sign-in", "--username", MFA_USER) as person:
            await person.sees(f"password of {MFA_USER}: ")
            await person.types("wrong")
            await person.sees(
                r"wrong password \(invalid_grant 50126\) \[trace [0-9a-f-]{36}, correlation [0-9a-f-]{36}\]"
            )
            await person.sees(f"password of {MFA_USER}, once more: ")
            await person.types(PASSWORD)
            await person.sees(r"second factor by:\n  1  email m\S+\n  2  sms \S+\nWhich one, 1 to 2\? ")
            await person.types("2")
            await person.sees(r"code sent by sms to \S+ \(empty: send a new one\): ")
            older = await world.sandbox.code(SMS)
            await person.types("")
            await person.sees("a new code was sent; the older one is void")
            await person.sees("code sent by sms")
            await person.types(older)
            await person.sees(r"wrong code, 2 tries left \(invalid_grant invalid_oob_value 50181\) \[trace ")
            await person.sees(r"code sent by sms to \S+, once more")
            await person.types(await world.sandbox.code(SMS))
            await person.sees("signed in as")
            assert await person.ended() == 0
            assert PASSWORD not in person.text
        account = await signed_in(phone)
        assert account["account"] == MFA_USER


async def test_a_person_registers_a_second_factor() -> None:
    async with World() as world:
        phone = await world.phone()
        async with terminal(world, phone, "sign-in", "--username", REGISTER_USER) as person:
            await person.sees("password of")
            await person.types(PASSWORD)
            await person.sees(r"register a second factor by:\n  1  email register@contoso.example\n  2  sms\n")
            await person.types("1")
            await person.sees(r"e-mail address to register as second factor \[register@contoso.example\]: ")
            await person.types("other@contoso.example")
            await person.sees("code sent by email to other@contoso.example")
            await person.types(await world.sandbox.code("other@contoso.example"))
            await person.sees("signed in as")
            assert await person.ended() == 0
        await signed_in(phone)


async def test_a_person_signs_up() -> None:
    async with World() as world:
        await world.sandbox.control("POST", "policy", {"required_attributes": [NAME, AGE]})
        phone = await world.phone()
        async with terminal(world, phone, "sign-up", "--username", NEW_USER) as person:
            await person.sees(r"code sent by email to n\S+")
            await person.types(await world.sandbox.code(NEW_USER))
            await person.sees(f"new password of {NEW_USER}: ")
            await person.types("short")
            await person.sees("once more, to be sure: ")
            await person.types("short")
            await person.sees(r"the password is too short \(")
            await person.sees(f"new password of {NEW_USER}, another one: ")
            await person.types(NEW)
            await person.sees("once more, to be sure: ")
            await person.types(NEW)
            await person.sees(r"displayName \(String\): ")
            await person.types("Ann")
            await person.sees(r"extension_1_age \(Int64, \^\[1-9\]\[0-9\]\*\$\): ")
            await person.types("old")
            await person.sees("the provider does not accept some of the attributes")
            await person.sees("not accepted, once more: extension_1_age")
            await person.types("42")
            await person.sees("signed in as new@contoso.example")
            assert await person.ended() == 0
            assert NEW not in person.text
        await signed_in(phone)


async def test_a_script_signs_in_with_a_second_factor() -> None:
    async with World() as world:
        phone = await world.phone()
        password = world.directory / "pw"
        password.write_text(PASSWORD + "\n")
        world.permitted.add(str(password))
        words = ("sign-in", "--username", MFA_USER, "--password-file", str(password), "--json")
        bare = (await phone(*words)).expect(4)
        assert json.loads(bare.out)["error"]["hint"] == "say it beforehand: --mfa-method, --register"
        by_mail = await phone(*words, "--mfa-method", "email", "--otp-command", mailbox_command(world, MFA_USER))
        assert by_mail.expect().json["account"] == MFA_USER
        await signed_in(phone)


async def test_a_script_registers_a_proven_address_without_a_code() -> None:
    async with World() as world:
        phone = await world.phone()
        words = ("sign-in", "--username", PREVERIFIED_USER, "--password-file", "-", "--register", PREVERIFIED_USER)
        (await phone(*words, stdin=PASSWORD)).expect()
        await signed_in(phone)


async def test_a_script_signs_up_from_files_and_the_account_is_there_afterwards() -> None:
    async with World() as world:
        await world.sandbox.control("POST", "policy", {"required_attributes": [NAME, AGE]})
        phone = await world.phone()
        (world.directory / "pw").write_text(NEW + "\n")
        (world.directory / "me.json").write_text('{"displayName": "Ann", "extension_1_age": 42}')
        words = ("sign-up", "--username", NEW_USER, "--password-file", str(world.directory / "pw"))
        ran = await phone(
            *words,
            *("--attributes-file", str(world.directory / "me.json"), "--json"),
            *("--otp-command", mailbox_command(world, NEW_USER)),
        )
        made = ran.expect().json
        assert (made["signed_in"], made["account"], made["grant"]["state"]) == (True, NEW_USER, "held")
        await signed_in(phone)
        again = (await phone(*words)).expect(4)
        assert "there is an account with this name already" in again.err
        assert f"hint: token-relay phone sign-in --username {NEW_USER}" in again.err


async def test_a_script_signs_up_an_account_without_a_password() -> None:
    async with World() as world:
        phone = await world.phone()
        ran = await phone(
            *("sign-up", "--username", NEW_USER, "--no-password"), "--otp-command", mailbox_command(world, NEW_USER)
        )
        ran.expect()
        account = await signed_in(phone)
        assert account["grant_ends_at"] - account["stored_at"] == pytest.approx(
            86_400, abs=5
        )  # as after any e-mail code


async def test_a_script_resets_the_password_and_is_signed_in() -> None:
    async with World() as world:
        await world.sandbox.control("POST", "policy", {"reset_duration_s": 1})
        phone = await world.phone()
        (await phone("sign-in", "--username", RESET_USER, "--password-file", "-", stdin=PASSWORD)).expect()
        before = await signed_in(phone)
        (world.directory / "pw").write_text(NEW + "\n")
        ran = await phone(
            *("reset-password", "--username", RESET_USER, "--new-password-file", str(world.directory / "pw")),
            *("--otp-command", mailbox_command(world, RESET_USER), "--json"),
        )
        assert ran.expect().json["signed_in"] is True
        after = await signed_in(phone)
        assert after["grant_id"] != before["grant_id"]  # the old one was revoked by the change
        (await phone("sign-in", "--username", RESET_USER, "--password-file", "-", stdin=PASSWORD)).expect(4)
        (await phone("sign-in", "--username", RESET_USER, "--password-file", "-", stdin=NEW)).expect()


async def test_a_changed_password_is_told_though_the_sign_in_after_it_is_refused() -> None:
    async with World() as world:
        phone = await world.phone()
        await world.sandbox.fault("refuse", endpoint="token", error="interaction_required", code=53003)
        (world.directory / "pw").write_text(NEW + "\n")
        ran = await phone(
            *("reset-password", "--username", RESET_USER, "--new-password-file", str(world.directory / "pw")),
            *("--otp-command", mailbox_command(world, RESET_USER), "--json"),
        )
        told = ran.expect(0).json
        assert (told["signed_in"], told["grant"], told["action"]["slug"]) == (False, None, "sign_in")
        assert told["message"].startswith("the password was changed, but nobody is signed in: ")
        assert "[trace " in told["message"]
        assert "sign_in_refused" in await phone.events()


async def test_a_refused_sign_in_leaves_its_trace_id_in_the_audit_table() -> None:
    async with World() as world:
        phone = await world.phone()
        ran = await phone("sign-in", "--username", PASSWORD_USER, "--password-file", "-", stdin="wrong\nworse\n")
        ran.expect(4)
        rows = (await phone.control("events", limit=1000))["events"]
        (row,) = [row for row in rows if row["name"] == "sign_in_refused"]
        assert row["detail"] == "invalid_grant 50126"
        seen = {event["trace_id"] for event in await world.sandbox.events() if event["kind"] == "sign_in_denied"}
        assert row["trace_id"] in seen
        assert row["trace_id"] in ran.err


async def test_a_companion_meets_a_claims_challenge() -> None:
    async with World() as world:
        await world.sandbox.control("POST", "policy", {"cae": True})
        phone = await world.phone()
        await phone.sign_in(PASSWORD_USER)
        claims = '{"access_token":{"xms_cc":{"values":["cp1"]}}}'
        first = await phone.token("--claims", claims)
        assert (await world.sandbox.resource(first))[0] == 200
        await world.sandbox.control("POST", "revoke", {"username": PASSWORD_USER})
        status, body = await world.sandbox.resource(first)
        assert (status, body["error"]) == (401, "insufficient_claims")
        bad = (await phone("token", "--claims", "{}")).expect(1)
        assert "bad_request" in bad.err
