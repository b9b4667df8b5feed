"""The few pages that a person may see, and the ways back to the application.

No page loads anything. One kind runs a script, a single line that its policy names by hash: the form that a browser
posts by itself. Without scripts the form shows a button.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from hashlib import sha256
from html import escape
from urllib.parse import urlencode, urlsplit

from token_relay.sandbox.provider.http_values import Response, html_response
from token_relay.sandbox.provider.memory.state import State

_SUBMIT = "document.forms[0].submit()"
_SUBMIT_HASH = base64.b64encode(sha256(_SUBMIT.encode()).digest()).decode()


def back(
    state: State, redirect_uri: str, answer_state: str, *, response_mode: str = "query", **params: str
) -> Response:
    """Send the browser to the client. RFC 6749 §4.1.2, with the issuer of RFC 9207.

    ``form_post``: with a form that posts itself, so that no address holds the code. OAuth 2.0 Form Post §2.
    """
    known = {**params, "state": answer_state, "iss": state.urls.issuer}
    known = {name: value for name, value in known.items() if value}
    if response_mode == "form_post":
        return posting_page(redirect_uri, known)
    query = urlencode(known)
    location = f"{redirect_uri}{'&' if '?' in redirect_uri else '?'}{query}"
    return html_response("", 303).with_headers(("Location", location))


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


def activation_page(problem: str) -> Response:
    """Ask for the code that a device shows. RFC 8628 §3.3."""
    note = f'<p role="alert">{escape(problem)}</p>' if problem else ""
    form = (
        '<form method="get" action="/activate"><label>The code that your device shows '
        '<input name="user_code" autocomplete="off"></label><button>Continue</button></form>'
    )
    return html_response(page("Your device", f"{note}{form}"), 400 if problem else 200)


def error_page(text: str) -> Response:
    """Say what went wrong when the client cannot be told."""
    return html_response(page("This did not work", f"<p>{escape(text)}</p>"), 400)


def posting_page(url: str, fields: Mapping[str, str]) -> Response:
    """Let the browser post these fields to ``url``."""
    hidden = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">' for name, value in fields.items()
    )
    form = f'<form method="post" action="{escape(url)}">{hidden}<button>Continue</button></form>'
    response = html_response(page("Signing in", f"{form}<script>{_SUBMIT}</script>"))
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_SUBMIT_HASH}'; frame-ancestors 'none'"
    )
    headers = tuple((name, value) for name, value in response.headers if name != "Content-Security-Policy")
    return Response(200, response.body, response.content_type, (*headers, ("Content-Security-Policy", policy)))


def page(title: str, content: str) -> str:
    """Return a whole page; ``content`` is HTML."""
    style = "body{font:16px sans-serif;max-width:24em;margin:3em auto}label,input,button{display:block;margin:.5em 0}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} - sandbox</title>'
        f"<style>{style}</style></head><body><h1>{title}</h1>{content}</body></html>"
    )
