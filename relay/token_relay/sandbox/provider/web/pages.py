"""The few pages that a person may see, and the ways back to the application.

No page loads anything. Two kinds run a script, a single line that their policy names by hash: the form that a browser
posts by itself (without scripts it shows a button), and the page that hands an answer to the window that opened it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from html import escape
from urllib.parse import quote, urlencode, urlsplit

from token_relay.sandbox.provider.http_values import Response, html_response
from token_relay.sandbox.provider.memory.state import ResponseMode, State

_PORTS = {"http": 80, "https": 443}
_SUBMIT = "document.forms[0].submit()"
_TELL = (
    "const told=JSON.parse(document.getElementById('told').textContent);"
    "(window.opener||window.parent).postMessage({type:'authorization_response',response:told.response},told.origin)"
)


def back(
    state: State, redirect_uri: str, answer_state: str, *, response_mode: ResponseMode = "query", **params: str
) -> Response:
    """Send the browser to the client. RFC 6749 §4.1.2, with the issuer of RFC 9207.

    ``fragment``: behind a #, which browsers send to nobody. ``form_post``: with a form that posts itself, so that no
    address holds the code (OAuth 2.0 Form Post §2). ``web_message``: the page stays where it is, and posts the answer
    to the window that it belongs to, as Auth0's does for popups and hidden frames.
    """
    known = {**params, "state": answer_state, "iss": state.urls.issuer}
    known = {name: value for name, value in known.items() if value}
    if response_mode == "form_post":
        return posting_page(redirect_uri, known)
    if response_mode == "web_message":
        return _telling_page(origin_of(redirect_uri), known)
    return redirect(f"{redirect_uri}#{_encoded(known)}" if response_mode == "fragment" else joined(redirect_uri, known))


def redirect(location: str) -> Response:
    """Send the browser there with GET."""
    return html_response("", 303).with_headers(("Location", location))


def joined(url: str, query: Mapping[str, str]) -> str:
    """Return the address with these parameters added; whoever decodes them gets each to the letter."""
    return f"{url}{'&' if '?' in url else '?'}{_encoded(query)}" if query else url


def origin_of(url: str) -> str:
    """Return the origin of an http address, as a browser spells it, else an empty string. RFC 6454 §6.2."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    if parts.scheme not in _PORTS or not parts.hostname:
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if port in {None, _PORTS[parts.scheme]} else f":{port}")


def _encoded(query: Mapping[str, str]) -> str:
    return urlencode(query, quote_via=quote)  # a space as %20, which every decoder knows


def login_page(state: State, ticket: str, *, username: str, problem: str = "", status: int = 400) -> Response:
    """Show the form; ``status`` counts only if there is a problem to show."""
    action = urlsplit(state.urls.url("login")).path
    note = f'<p role="alert">{escape(problem)}</p>' if problem else ""
    form = (
        f'<form method="post" action="{escape(action)}">'
        f'<input type="hidden" name="ticket" value="{escape(ticket)}">'
        f'<label>User name <input name="username" value="{escape(username)}" autocomplete="username"></label>'
        "<label>Password, or code from your mailbox (leave empty to be sent one) "
        '<input name="password" type="password" autocomplete="current-password"></label>'
        "<button>Sign in</button></form>"
    )
    return html_response(page("Sign in", f"{note}{form}"), status if problem else 200)


def consent_page(state: State, ticket: str, *, question: str, scope: Sequence[str]) -> Response:
    """Ask a signed-in person for consent."""
    items = "".join(f"<li>{escape(word)}</li>" for word in scope)
    form = (
        f'<p id="question">{escape(question)}</p><ul>{items}</ul>'
        f'<form method="post" action="{escape(urlsplit(state.urls.url("login")).path)}">'
        f'<input type="hidden" name="ticket" value="{escape(ticket)}">'
        '<button name="action" value="accept">Accept</button><button name="action" value="deny">Decline</button></form>'
    )
    return html_response(page("Allow this?", form))


def account_page(state: State, ticket: str, username: str) -> Response:
    """Let a person choose between the account that is signed in here and another one."""
    action = urlsplit(state.urls.url("login")).path
    form = (
        f'<form method="post" action="{escape(action)}"><input type="hidden" name="ticket" value="{escape(ticket)}">'
        f'<button name="action" value="continue">{escape(username)}</button>'
        '<button name="action" value="other">Use another account</button></form>'
    )
    return html_response(page("Pick an account", form))


def activation_page(problem: str) -> Response:
    """Ask for the code that a device shows. RFC 8628 §3.3."""
    note = f'<p role="alert">{escape(problem)}</p>' if problem else ""
    form = (
        '<form method="get" action="/activate"><label>The code that your device shows '
        '<input name="user_code" autocomplete="off"></label><button>Continue</button></form>'
    )
    return html_response(page("Your device", f"{note}{form}"), 400 if problem else 200)


def error_page(text: str, status: int = 400) -> Response:
    """Say what went wrong when the client cannot be told."""
    return html_response(page("This did not work", f"<p>{escape(text)}</p>"), status)


def posting_page(url: str, fields: Mapping[str, str]) -> Response:
    """Let the browser post these fields to ``url``."""
    hidden = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">' for name, value in fields.items()
    )
    form = f'<form method="post" action="{escape(url)}">{hidden}<button>Continue</button></form>'
    return _with_script(form, _SUBMIT, ancestors="'none'")


def _telling_page(origin: str, answer: Mapping[str, str]) -> Response:
    """Post an answer to the opener or the parent, if that is a page of this origin."""
    told = json.dumps({"origin": origin, "response": answer}).replace("<", "\\u003c")
    return _with_script(f'<script type="application/json" id="told">{told}</script>', _TELL, ancestors=origin)


def _with_script(content: str, script: str, *, ancestors: str) -> Response:
    response = html_response(page("Signing in", f"{content}<script>{script}</script>"))
    known = base64.b64encode(sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{known}'; frame-ancestors {ancestors}"
    headers = tuple((name, value) for name, value in response.headers if name != "Content-Security-Policy")
    return Response(200, response.body, response.content_type, (*headers, ("Content-Security-Policy", policy)))


def page(title: str, content: str) -> str:
    """Return a whole page; ``content`` is HTML."""
    style = "body{font:16px sans-serif;max-width:24em;margin:3em auto}label,input,button{display:block;margin:.5em 0}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} - sandbox</title>'
        f"<style>{style}</style></head><body><h1>{title}</h1>{content}</body></html>"
    )
