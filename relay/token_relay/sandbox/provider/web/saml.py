"""SAML 2.0 and WS-Federation: a session transfer token opens a session here too, and the answer is an assertion.

Only sign-in that begins at the provider (IdP-initiated) exists: ``/samlp/{client_id}`` and ``/wsfed/{client_id}``
take the same token, judge it the same way, and let the browser post a signed assertion to the service provider. One
demo service provider is included (``/sandbox/service-provider``); it believes only what is inside the signed part.
A library signs and checks, behind :class:`token_relay.sandbox.provider.memory.state.Assertions`.

Ours: WS-Federation carries a SAML 2.0 assertion; requests of a service provider (``SAMLRequest``) are refused.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from html import escape
from xml.sax.saxutils import escape as xml_escape
from xml.sax.saxutils import quoteattr

from token_relay.sandbox.provider.http_values import Params, Refusal, Response, html_response, stamp
from token_relay.sandbox.provider.memory.accounts import User
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import Authorization, Session, State, VerifiedAssertion, remember
from token_relay.sandbox.provider.web.pages import error_page, page, posting_page
from token_relay.sandbox.provider.web.session_login import Visit, arrive
from token_relay.sandbox.provider.world.model import ClientModel

ASSERTION_S = 300.0
LOGIN_S = 600.0
RELAY_STATE_CHARS_MAX = 2_048
SERVICE_PROVIDER_PATH = "/sandbox/service-provider"
_SIGNATURE_HERE = '<ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#" Id="placeholder"/>'


def sign_in(
    state: State, client_id: str, params: Params, cookies: Mapping[str, str], *, trace: Trace, protocol: str
) -> Response:
    """Answer the address of an IdP-initiated sign-in."""
    client = state.clients.get(client_id)
    if client is None or client.saml is None:
        return error_page("No service provider of this name is known here.")
    if state.assertions is None:
        return _without_library()
    if params.get("SAMLRequest") or params.get("wa") not in {"", "wsignin1.0"}:
        return error_page("Only a sign-in that begins here is possible.")
    relay_state = params.get("RelayState") or params.get("wctx")
    if len(relay_state) > RELAY_STATE_CHARS_MAX:
        return error_page("The RelayState is too long.")
    authorization = Authorization(
        client_id=client.client_id,
        redirect_uri=client.saml.acs_url,
        scope=(),
        audience=client.saml.audience,
        state=relay_state,
        nonce="",
        code_challenge="",
        expires_at=trace.now + LOGIN_S,
        protocol=protocol,
    )
    without_prompt = Params((name, params.get(name)) for name in ("session_transfer_token",))
    return arrive(Visit(state, client, authorization, cookies, trace, finish), without_prompt)


def finish(visit: Visit, user: User, session: Session) -> Response:
    """Let the browser post an assertion about a signed-in person."""
    state, client, authorization, trace = visit.state, visit.client, visit.authorization, visit.trace
    if state.assertions is None or client.saml is None:
        return _without_library()
    signed = state.assertions.sign(_assertion(visit, user, session))
    state.note(
        "assertion_issued", trace.now, trace_id=trace.trace_id, username=user.username, client_id=client.client_id
    )
    if authorization.protocol == "wsfed":
        fields = {"wa": "wsignin1.0", "wresult": _token_response(client, signed, trace)}
        return posting_page(client.saml.acs_url, {**fields, "wctx": authorization.state})
    whole = _response(state, client, signed, trace)
    fields = {"SAMLResponse": base64.b64encode(whole.encode()).decode()}
    if authorization.state:
        fields["RelayState"] = authorization.state
    return posting_page(client.saml.acs_url, fields)


def consume(state: State, params: Params, trace: Trace) -> Response:
    """Act as the service provider: take a posted assertion, and say who is signed in."""
    if state.assertions is None:
        return _without_library()
    try:
        xml = params.get("wresult") or base64.b64decode(params.need("SAMLResponse"), validate=True).decode()
    except (binascii.Error, ValueError):
        raise Refusal("invalid_request", "the assertion cannot be decoded") from None
    found = state.assertions.verify(xml)
    problem = _problem(state, found, trace)
    if problem or found is None:
        return html_response(page("Not signed in", f"<p>{escape(problem)}</p>"), 403)
    remember(state.seen_assertions, found.assertion_id, trace.now)
    state.note("assertion_accepted", trace.now, trace_id=trace.trace_id, username=found.name_id)
    return html_response(page("Signed in", f'<p>Signed in as <b id="name-id">{escape(found.name_id)}</b></p>'))


def _problem(state: State, found: VerifiedAssertion | None, trace: Trace) -> str:
    """Return why the service provider rejects an assertion, or an empty string. SAML 2.0 profiles §4.1.4.3."""
    if found is None:
        return "No assertion with a good signature."
    known = [one.saml for one in state.clients.values() if one.saml is not None]
    here = state.urls.base_url + SERVICE_PROVIDER_PATH
    now = stamp(trace.now) or ""
    if found.issuer != state.urls.issuer:
        return "The assertion is of another issuer."
    if found.recipient != here or all(one.audience != found.audience or one.acs_url != here for one in known):
        return "The assertion is for somebody else."
    if not found.not_before <= now < found.not_on_or_after:
        return "The assertion is too old or too young."
    return "The assertion was used before." if found.assertion_id in state.seen_assertions else ""


def _assertion(visit: Visit, user: User, session: Session) -> str:
    state, client, trace = visit.state, visit.client, visit.trace
    assert client.saml is not None, "checked by the caller"
    now, end = stamp(trace.now), stamp(trace.now + ASSERTION_S)
    name_id, acs_url = xml_escape(user.username), quoteattr(client.saml.acs_url)
    attributes = "".join(
        f'<saml:Attribute Name="http://schemas.xmlsoap.org/ws/2005/05/identity/claims/{name}">'
        f"<saml:AttributeValue>{xml_escape(value)}</saml:AttributeValue></saml:Attribute>"
        for name, value in (("emailaddress", user.username), ("name", user.name))
    )
    return (
        '<saml:Assertion xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion" Version="2.0"'
        f' ID="_{state.rng.randbytes(16).hex()}" IssueInstant="{now}">'
        f"<saml:Issuer>{xml_escape(state.urls.issuer)}</saml:Issuer>{_SIGNATURE_HERE}"
        '<saml:Subject><saml:NameID Format="urn:oasis:names:tc:SAML:1.1:nameid-format:emailAddress">'
        f"{name_id}</saml:NameID>"
        '<saml:SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:bearer">'
        f'<saml:SubjectConfirmationData NotOnOrAfter="{end}" Recipient={acs_url}/>'
        "</saml:SubjectConfirmation></saml:Subject>"
        f'<saml:Conditions NotBefore="{now}" NotOnOrAfter="{end}"><saml:AudienceRestriction>'
        f"<saml:Audience>{xml_escape(client.saml.audience)}</saml:Audience>"
        "</saml:AudienceRestriction></saml:Conditions>"
        f'<saml:AuthnStatement AuthnInstant="{stamp(session.authenticated_at)}" SessionIndex="{session.session_id}">'
        "<saml:AuthnContext><saml:AuthnContextClassRef>urn:oasis:names:tc:SAML:2.0:ac:classes:unspecified"
        "</saml:AuthnContextClassRef></saml:AuthnContext></saml:AuthnStatement>"
        f"<saml:AttributeStatement>{attributes}</saml:AttributeStatement></saml:Assertion>"
    )


def _response(state: State, client: ClientModel, signed: str, trace: Trace) -> str:
    assert client.saml is not None, "checked by the caller"
    return (
        '<samlp:Response xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol"'
        ' xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion" Version="2.0"'
        f' ID="_{state.rng.randbytes(16).hex()}" IssueInstant="{stamp(trace.now)}"'
        f" Destination={quoteattr(client.saml.acs_url)}>"
        f"<saml:Issuer>{xml_escape(state.urls.issuer)}</saml:Issuer>"
        '<samlp:Status><samlp:StatusCode Value="urn:oasis:names:tc:SAML:2.0:status:Success"/></samlp:Status>'
        f"{signed}</samlp:Response>"
    )


def _token_response(client: ClientModel, signed: str, trace: Trace) -> str:
    assert client.saml is not None, "checked by the caller"
    utility = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd"
    return (
        '<t:RequestSecurityTokenResponse xmlns:t="http://schemas.xmlsoap.org/ws/2005/02/trust"><t:Lifetime>'
        f'<wsu:Created xmlns:wsu="{utility}">{stamp(trace.now)}</wsu:Created>'
        f'<wsu:Expires xmlns:wsu="{utility}">{stamp(trace.now + ASSERTION_S)}</wsu:Expires></t:Lifetime>'
        '<wsp:AppliesTo xmlns:wsp="http://schemas.xmlsoap.org/ws/2004/09/policy">'
        '<a:EndpointReference xmlns:a="http://www.w3.org/2005/08/addressing">'
        f"<a:Address>{xml_escape(client.saml.audience)}</a:Address></a:EndpointReference></wsp:AppliesTo>"
        f"<t:RequestedSecurityToken>{signed}</t:RequestedSecurityToken>"
        "<t:TokenType>urn:oasis:names:tc:SAML:2.0:assertion</t:TokenType>"
        "<t:RequestType>http://schemas.xmlsoap.org/ws/2005/02/trust/Issue</t:RequestType>"
        "<t:KeyType>http://schemas.xmlsoap.org/ws/2005/05/identity/NoProofKey</t:KeyType>"
        "</t:RequestSecurityTokenResponse>"
    )


def _without_library() -> Response:
    text = "SAML needs the library signxml: pip install 'token-relay[saml]'."
    return html_response(page("Not installed", f"<p>{escape(text)}</p>"), 501)
