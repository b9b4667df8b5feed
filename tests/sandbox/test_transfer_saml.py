"""SAML and WS-Federation: the same token opens a session, and a service provider believes only what is signed."""

from __future__ import annotations

import base64
import re
from html import unescape

import pytest

from tests.sandbox.sandbox_client import PASSWORD_USER
from tests.sandbox.transfer_kit import ABROAD, BASE, HOME, WEB_ID, Browser, Desk, Reply, desk, web
from token_relay.sandbox.provider.memory.state import Assertions
from token_relay.sandbox.provider.world.auth0_clients import SAML_ID

signing = pytest.importorskip(
    "token_relay.sandbox.saml_signing",
    reason="signxml is not installed: assertions were not signed and checked",
)
SP = "/sandbox/service-provider"


@pytest.fixture(scope="module")
def signer() -> Assertions:
    """One key for all: making one takes up to a second."""
    found: Assertions = signing.SignxmlAssertions()
    return found


def posted(page: Reply) -> tuple[str, dict[str, str]]:
    """Where a page posts, and what."""
    action = re.search(r'action="([^"]+)"', page.text)
    assert action is not None, page.text
    fields = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', page.text)
    return unescape(action[1]), {name: unescape(value) for name, value in fields}


def arrive(one: Desk, protocol: str, *, ip: str = HOME, by: str = "query", slash: str = "/") -> Reply:
    stt, _ = one.transfer(one.sign_in())
    browser = Browser(one, ip)
    if by == "query":
        return browser.send("GET", f"/{protocol}{slash}{SAML_ID}?session_transfer_token={stt}&RelayState=back")
    browser.cookies[by] = stt
    return browser.send("GET", f"/{protocol}{slash}{SAML_ID}?RelayState=back")


@pytest.mark.parametrize("by", ["query", "auth0_session_transfer_token", "session_transfer_token"])
@pytest.mark.parametrize(("protocol", "slash"), [("samlp", "/"), ("wsfed", "/"), ("samlp", "//"), ("wsfed", "//")])
def test_a_token_signs_a_person_in_at_the_service_provider(
    signer: Assertions, protocol: str, slash: str, by: str
) -> None:
    one = desk(assertions=signer)
    page = arrive(one, protocol, by=by, slash=slash)
    url, fields = posted(page)
    assert url == BASE + SP
    assert fields.get("RelayState", fields.get("wctx")) == "back"
    done = one.send("POST", SP, form=fields)
    assert done.status == 200
    assert f'<b id="name-id">{PASSWORD_USER}</b>' in done.text
    assert len(one.live_sessions()) == 1
    (log,) = one.logs("s")
    assert log["details"]["triggered_by_session_transfer_token"] is True
    again = one.send("POST", SP, form=fields)
    assert again.status == 403
    assert "used before" in again.text


def test_a_token_from_elsewhere_falls_back_to_the_form_which_leads_to_the_same_place(signer: Assertions) -> None:
    one = desk(assertions=signer)
    page = arrive(one, "samlp", ip=ABROAD)
    assert page.is_login_page
    assert one.warnings() == ["device binding validation failed (IP)"]
    url, fields = posted(Browser(one).submit(page))
    assert url == BASE + SP
    assert one.send("POST", SP, form=fields).status == 200


def test_the_native_grants_end_ends_a_session_that_came_by_saml(signer: Assertions) -> None:
    one = desk(assertions=signer)
    stt, refresh_token = one.transfer(one.sign_in())
    browser = Browser(one)
    browser.send("GET", f"/samlp/{SAML_ID}?session_transfer_token={stt}")
    assert len(one.live_sessions()) == 1
    one.revoke(refresh_token)
    assert one.live_sessions() == []
    assert browser.send("GET", f"/samlp/{SAML_ID}").is_login_page


def xml_of(page: Reply) -> str:
    return base64.b64decode(posted(page)[1]["SAMLResponse"]).decode()


def shown(one: Desk, xml: str) -> Reply:
    return one.send("POST", SP, form={"SAMLResponse": base64.b64encode(xml.encode()).decode()})


def test_what_was_changed_is_not_believed(signer: Assertions) -> None:
    one = desk(assertions=signer)
    xml = xml_of(arrive(one, "samlp"))
    other = xml.replace(PASSWORD_USER, "reset@contoso.example")
    assert other != xml
    assert "No assertion with a good signature" in shown(one, other).text
    assert shown(one, re.sub(r"<ds:Signature .*</ds:Signature>", "", xml, flags=re.DOTALL)).status == 403
    assert shown(one, xml).status == 200


def test_an_unsigned_assertion_beside_or_around_the_signed_one_says_nothing(signer: Assertions) -> None:
    one = desk(assertions=signer)
    xml = xml_of(arrive(one, "samlp"))
    found = re.search(r"<saml:Assertion .*</saml:Assertion>", xml, re.DOTALL)
    assert found is not None
    forged = re.sub(r"<ds:Signature .*</ds:Signature>", "", found[0], flags=re.DOTALL)
    forged = forged.replace(PASSWORD_USER, "reset@contoso.example").replace(' ID="_', ' ID="_f')
    for wrapped in (
        xml.replace(found[0], forged + found[0]),
        xml.replace(found[0], found[0] + forged),
        xml.replace(found[0], forged.replace("</saml:Issuer>", f"</saml:Issuer>{found[0]}")),
    ):
        reply = shown(desk(assertions=signer), wrapped)
        assert "reset@contoso.example" not in reply.text


def test_an_assertion_is_good_for_five_minutes_for_its_own_provider_and_issuer(signer: Assertions) -> None:
    one = desk(assertions=signer)
    xml = xml_of(arrive(one, "samlp"))
    one.now += 300
    assert "too old" in shown(one, xml).text
    elsewhere = desk(assertions=signer, base_url="http://127.0.0.1:8500")
    assert "another issuer" in shown(elsewhere, xml).text


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "nonsense",
        "<a/>",
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        "<a>" * 5_000,
        "x" * 40_000,
    ],
)
def test_nonsense_is_no_assertion(signer: Assertions, xml: str) -> None:
    reply = shown(desk(assertions=signer), xml)
    assert reply.status in {400, 403}
    assert "root:" not in reply.text


def test_other_requests_are_refused_in_words(signer: Assertions) -> None:
    one = desk(assertions=signer)
    assert one.send("GET", "/samlp/nobody").status == 400
    assert one.send("GET", f"/samlp/{SAML_ID}?SAMLRequest=x").status == 400
    assert one.send("GET", f"/wsfed/{SAML_ID}?wa=wsignout1.0").status == 400
    assert one.send("POST", SP, form={"SAMLResponse": "%%%"}).status == 400


def test_an_assertion_for_another_service_provider_is_not_taken_here(signer: Assertions) -> None:
    one = desk(assertions=signer)
    one.set(
        WEB_ID, session_transfer=web(), addons={"samlp": {"audience": "urn:w", "destination": "https://w.example/"}}
    )
    stt, _ = one.transfer(one.sign_in())
    page = Browser(one).send("GET", f"/samlp/{WEB_ID}?session_transfer_token={stt}")
    url, fields = posted(page)
    assert url == "https://w.example/"
    assert "for somebody else" in one.send("POST", SP, form=fields).text


def test_a_relay_state_comes_back_as_text_and_within_bounds(signer: Assertions) -> None:
    one = desk(assertions=signer)
    for chars, status in ((2_048, 200), (2_049, 400)):
        assert one.send("GET", f"/samlp/{SAML_ID}?RelayState={'x' * chars}").status == status
    stt, _ = one.transfer(one.sign_in())
    page = Browser(one).send("GET", f"/samlp/{SAML_ID}?session_transfer_token={stt}&RelayState=%22%3E%3Cb%3E")
    assert "<b>" not in page.text and posted(page)[1]["RelayState"] == '"><b>'


def test_without_the_library_the_page_says_what_to_install() -> None:
    reply = desk().send("GET", f"/samlp/{SAML_ID}")
    assert reply.status == 501
    assert "token-relay[saml]" in reply.text
