"""``open-web``: opens a web application already signed in.

It asks for the token as late as possible, since the token lives a minute: for the system's browser only when the
browser has connected (:mod:`token_relay.cli.commands.browser_redirect`), however slowly it starts. The token goes only
to the place that the command line names, never into a log or the argv of a process.

Query or cookie: a query parameter reaches any browser, but the web application must pass it on to the provider. A
cookie on the provider's domain needs nothing of the web application, but only a web view accepts one from outside.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from http.cookiejar import Cookie, LoadError, MozillaCookieJar
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from token_relay.cli.client import TOKEN_GRACE_S, ClientError, get_session_transfer, locate
from token_relay.cli.commands.browser_redirect import Doorway
from token_relay.cli.commands.token import AGENT_TIMEOUT_S, agent_kind, refused
from token_relay.cli.graphical_browser import open_graphical
from token_relay.cli.parsing import DONE, Context, UsageError
from token_relay.host.paths import TOKEN_SOCKET
from token_relay.protocol.errors import LocalError
from token_relay.provider.http import url_problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from token_relay.cli.client import JsonObject

PARAMETER = "session_transfer_token"
COOKIE = "auth0_session_transfer_token"
VISIT_S_MAX = 60.0  # how long a browser may take to start
WISHES = ("account", "issuer", "phone", "audience")  # a phone has no --phone
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{1,1024}", re.ASCII)
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)


def run(args: argparse.Namespace, context: Context) -> int:
    """Deliver a session transfer token the way the command line says."""
    check_url(args.url)
    if args.cookie_domain is not None and (args.cookie_jar is None or not _HOST.fullmatch(args.cookie_domain)):
        raise UsageError("--cookie-domain is a host name in lower case, and goes with --cookie-jar")
    path = locate(agent_kind(args), context.env, name=TOKEN_SOCKET, home=args.home, socket_directory=args.socket)
    wish: JsonObject = {name: value for name in WISHES if (value := getattr(args, name, None)) is not None}

    def ask() -> tuple[int, JsonObject]:
        return get_session_transfer(path, wish, timeout_s=AGENT_TIMEOUT_S + TOKEN_GRACE_S)

    if args.print or args.cookie_jar is not None:
        status, body = ask()
        if status != 200:
            return refused(context, status, body)
        shown = _in_cookie(args, body) if args.cookie_jar is not None else {"url": in_query(args.url, token_of(body))}
        context.out(json.dumps(shown) if context.as_json else str(shown["url"]))
        return DONE
    return _in_browser(args.url, context, ask)


def check_url(url: str) -> None:
    """Refuse an address that must not see a token. Raises UsageError."""
    problem = url_problem(url)
    if not problem and any(name == PARAMETER for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)):
        problem = f"has a {PARAMETER} already"
    if problem:
        raise UsageError(f"the address {problem}", hint="https://…; plain http for this machine alone")


def in_query(url: str, token: str) -> str:
    """Return the address with the token as its last parameter; what was there stays as it was."""
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode({PARAMETER: token}))))
    return urlunsplit(parts._replace(query=query, path=parts.path or "/"))


def token_of(body: JsonObject) -> str:
    """Return the token of the agent's answer. Raises ClientError where there is none that fits an address."""
    token = body.get("session_transfer_token")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise ClientError("bad_reply", "the agent answered without a session transfer token")
    return token


# -- The system's browser ----------------------------------------------------------------------------------


def _in_browser(url: str, context: Context, ask: Ask) -> int:
    answers: list[tuple[int, JsonObject]] = []

    def arrive() -> str:
        answers.append(ask())
        status, body = answers[0]
        return in_query(url, token_of(body)) if status == 200 else ""

    with Doorway() as doorway:
        if not open_graphical(doorway.url, context.env):
            raise LocalError("no browser could be opened", hint="use --print, and open the address yourself")
        has_come = doorway.admit(arrive, wait_s=VISIT_S_MAX)
    if not has_come:
        raise LocalError(f"no browser came within {VISIT_S_MAX:g} s", hint="use --print")
    status, body = answers[0]
    if status != 200:
        return refused(context, status, body)
    if context.as_json:
        context.out(json.dumps({"url": url, "opened": True}))
    else:
        context.note(f"opened {url}")
    return DONE


# -- A web view's cookie -----------------------------------------------------------------------------------


def _in_cookie(args: argparse.Namespace, body: JsonObject) -> JsonObject:
    issuer, lives_s = body.get("issuer"), body.get("expires_in_s")
    domain = args.cookie_domain or (urlsplit(issuer).hostname if isinstance(issuer, str) else "")
    if not domain or not isinstance(lives_s, int):
        raise ClientError("bad_reply", "the agent answered without issuer or end of the token")
    expires_at = int(time.time()) + lives_s
    put_cookie(Path(args.cookie_jar), domain=domain, token=token_of(body), expires_at=expires_at)
    attributes: JsonObject = {
        "name": COOKIE,
        "domain": domain,
        "path": "/",
        "expires_at": expires_at,
        "secure": True,
        "http_only": True,
        "same_site": "None",  # the file has no column for it, so a web view needs it from here
    }
    return {"url": args.url, "cookie_jar": args.cookie_jar, "cookie": attributes}


def put_cookie(path: Path, *, domain: str, token: str, expires_at: int) -> None:
    """Add the cookie to a file in Netscape format, mode 0600; its other cookies stay. Replaces it in one step.

    Raises:
        LocalError: the file is not a cookie jar, or the place cannot be written.
    """
    jar = MozillaCookieJar()
    try:
        if path.exists():
            jar.load(os.fspath(path), ignore_discard=True)
        jar.set_cookie(
            Cookie(
                version=0,
                name=COOKIE,
                value=token,
                port=None,
                port_specified=False,
                domain=domain,
                domain_specified=False,  # for this host alone, not for those below it
                domain_initial_dot=False,
                path="/",
                path_specified=True,
                secure=True,
                expires=expires_at,
                discard=False,
                comment=None,
                comment_url=None,
                rest={"HTTPOnly": "", "SameSite": "None"},  # the first in the library's own spelling
            )
        )
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".cookies-")  # made with mode 0600
        os.close(descriptor)
        try:
            jar.save(temporary, ignore_discard=True)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except LoadError:
        raise LocalError(f"{path} is not a cookie jar in Netscape format", hint="name another file") from None
    except OSError as exc:
        raise LocalError(f"cannot write {path}: {exc.strerror}") from exc


if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[[], tuple[int, JsonObject]]
