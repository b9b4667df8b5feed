"""``sandbox ctl``: controls a running sandbox over its control interface.

It imports nothing of the sandbox. The running sandbox decides which links and faults there are, and answers an
unknown name with the list. It uses only the standard library, and no proxy from the environment.
"""

from __future__ import annotations

import argparse
import http.client
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from token_relay.cli import starting
from token_relay.cli.client import EXIT_NOT_RUNNING, ClientError
from token_relay.cli.parsing import DONE, Context, UsageError
from token_relay.cli.render import clean, show, value_text
from token_relay.mqtt.tls import client_context
from token_relay.provider.http import is_loopback

TIMEOUT_S = 10.0
POLL_S = 30.0  # one long poll of `events --follow`
ANSWER_BYTES_MAX = 16_777_216  # a thousand events have some 300 kB
ANIMAL_BYTES_MAX = 65_536  # more than an order may have

JsonObject = dict[str, Any]  # as it came from the sandbox; shown, never relied on


# -- Commands ----------------------------------------------------------------------------------------------


def links(args: argparse.Namespace, context: Context) -> int:
    """``sandbox ctl links``."""
    return _show_links(context, _ask(args, context, "GET", "links"))


def cut(args: argparse.Namespace, context: Context) -> int:
    """``sandbox ctl cut``."""
    order = {"link": args.link, "do": "cut", "how": args.how, "direction": args.direction}
    return _show_links(context, _ask(args, context, "POST", "links", _given(order)))


def heal(args: argparse.Namespace, context: Context) -> int:
    """``sandbox ctl heal``."""
    return _show_links(context, _ask(args, context, "POST", "links", {"link": args.link, "do": "heal"}))


def slow(args: argparse.Namespace, context: Context) -> int:
    """``sandbox ctl slow``."""
    if args.latency is None and args.rate is None:
        raise UsageError("slow needs --latency or --rate")
    order = {"link": args.link, "do": "slow", "latency_s": args.latency, "bytes_per_s": args.rate}
    return _show_links(context, _ask(args, context, "POST", "links", _given(order)))


def fault(args: argparse.Namespace, context: Context) -> int:
    """``sandbox ctl fault``."""
    if (args.name == "answer") != (args.file is not None):
        raise UsageError("fault answer, and no other, needs FILE")
    order = {
        "times": args.times,
        "endpoint": args.endpoint,
        "grant_type": args.grant_type,
        "committed": args.commit or None,
    }
    if args.file is not None:
        return _show(context, _ask(args, context, "POST", "animals", {"animal": _animal(args.file), **_given(order)}))
    order |= {"name": args.name, "seconds": args.seconds, "retry_after_s": args.retry_after}
    return _show(context, _ask(args, context, "POST", "faults", _given(order)))


def _animal(file: str) -> JsonObject:
    try:
        with Path(file).open("rb") as opened:
            found = tomllib.loads(opened.read(ANIMAL_BYTES_MAX).decode())
        json.dumps(found)
    except OSError as exc:
        raise UsageError(f"cannot read {file}: {exc.strerror}") from exc
    except (ValueError, TypeError, RecursionError) as exc:  # a date is TOML and no JSON
        raise UsageError(f"{file}: not TOML that an animal is written in: {exc}") from exc
    return found


def faults(args: argparse.Namespace, context: Context) -> int:
    """``sandbox ctl faults``."""
    return _show(context, _ask(args, context, "DELETE" if args.clear else "GET", "faults"))


def lenient(args: argparse.Namespace, context: Context) -> int:
    """``sandbox ctl lenient``."""
    if args.name is not None and args.clear:
        raise UsageError("NAME or --clear, not both")
    if args.name is not None:
        return _show(context, _ask(args, context, "POST", "lenient", {"name": args.name}))
    return _show(context, _ask(args, context, "DELETE" if args.clear else "GET", "lenient"))


def clock(args: argparse.Namespace, context: Context) -> int:
    """``sandbox ctl clock``."""
    if args.advance is None:
        found = _ask(args, context, "GET", "clock")
    else:
        found = _ask(args, context, "POST", "clock", {"advance_s": args.advance})
    if not context.as_json:
        found = {**found, "now": int(found["now"])}
    return _show(context, found)


def revoke(args: argparse.Namespace, context: Context) -> int:
    """``sandbox ctl revoke``."""
    return _show(context, _ask(args, context, "POST", "revoke", {"username": args.user}))


def events(args: argparse.Namespace, context: Context) -> int:
    """``sandbox ctl events``; with ``--follow`` it goes on until it is interrupted or the sandbox ends."""
    found = (
        event
        for event in _events(args, context)
        if args.trace_id is None or args.trace_id in (event.get("trace_id"), event.get("correlation_id"))
    )
    if context.as_json and not args.follow:
        return _show(context, {"events": list(found)})
    for event in found:
        context.out(json.dumps(event, ensure_ascii=False) if context.as_json else _event_line(event))
    return DONE


def _events(args: argparse.Namespace, context: Context) -> Iterator[JsonObject]:
    """Yield the events so far, and with ``--follow`` also later ones."""
    after = args.after
    while True:
        query = {"after": after, "wait_s": POLL_S} if args.follow else {"after": after}
        found = _ask(args, context, "GET", f"events?{urlencode(query)}", timeout_s=TIMEOUT_S + POLL_S)["events"]
        yield from found
        if not found and not args.follow:
            return
        after = max([after, *(event["id"] for event in found)])


# -- What a person sees ------------------------------------------------------------------------------------


def _show(context: Context, result: JsonObject) -> int:
    show(context, result)
    return DONE


def _show_links(context: Context, result: JsonObject) -> int:
    if not context.as_json:
        result = {"links": [_link_row(link) for link in result["links"]]}
    return _show(context, result)


def _link_row(link: JsonObject) -> JsonObject:
    """Return a link in as many columns as a terminal has room for."""
    more = [clean(str(link[key])) for key in ("how", "direction") if link.get(key) not in (None, "both")]
    if link.get("latency_s"):
        more.append(f"{link['latency_s']:g} s")
    if link.get("bytes_per_s"):
        more.append(f"{link['bytes_per_s']:g} B/s")
    return {
        "link": link["name"],
        "state": " ".join([clean(str(link["state"])), *more]),
        "since_at": int(link["since"]),
        "address": link["address"],
        "target": link["target"],
        "open": link["connections"],
        "bytes up/down/lost": f"{link['bytes_up']}/{link['bytes_down']}/{link['bytes_lost']}",
    }


def _event_line(event: Mapping[str, object]) -> str:
    at = event.get("at")
    moment = value_text("at", int(at)) if isinstance(at, int | float) else "-"
    rest = [f"{clean(key)}={value_text(key, value)}" for key, value in event.items() if key not in ("id", "at", "kind")]
    return "  ".join([f"{event.get('id')!s:>5}", moment, clean(str(event.get("kind"))), *rest])


def _given(order: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in order.items() if value is not None}


# -- The way to the sandbox --------------------------------------------------------------------------------


def _ask(
    args: argparse.Namespace,
    context: Context,
    method: str,
    path: str,
    body: Mapping[str, object] | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
) -> JsonObject:
    """Send one request and return its answer.

    Raises:
        UsageError: the address or the request is wrong; the message is the sandbox's own.
        ClientError: no sandbox answers there, or it refuses.
    """
    connection = _connect(args.url, args.ca, timeout_s)
    try:
        try:
            connection.connect()
        except ConnectionRefusedError:
            starting.wait_for_sandbox(args.url, context.note)  # then request() connects
        connection.request(
            method,
            f"/sandbox/{quote(path, safe='/?=&.')}",
            body=None if body is None else json.dumps(body),
            headers={"Content-Type": "application/json"},
        )
        answer = connection.getresponse()
        raw = answer.read(ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException) as exc:
        why = exc.strerror or type(exc).__name__ if isinstance(exc, OSError) else type(exc).__name__
        raise ClientError(
            "not_running",
            f"no sandbox answers at {args.url}: {why}",
            hint="start one: token-relay sandbox; --url says where another one is",
            exit_code=EXIT_NOT_RUNNING,
        ) from exc
    finally:
        connection.close()
    try:
        found = json.loads(raw)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ClientError("not_a_sandbox", f"the program at {args.url} is not a sandbox", hint="--url", exit_code=1)
    if answer.status >= 400:
        raise _refused(args, context, path.partition("?")[0], answer.status, found)
    return found


def _connect(url: str, ca: str | None, timeout_s: float) -> http.client.HTTPConnection:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    host = parts.hostname
    if parts.scheme not in ("http", "https") or not host or parts.path not in ("", "/") or parts.username:
        raise UsageError("--url: must be http://HOST:PORT or https://HOST:PORT")
    if parts.scheme == "http":
        if not is_loopback(host):
            raise UsageError("--url: plain http is for this machine only")
        return http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        context = client_context(ca)
    except OSError as exc:  # ssl.SSLError is one
        raise UsageError(f"--ca: cannot read {ca}") from exc
    return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)


def _refused(
    args: argparse.Namespace, context: Context, path: str, status: int, found: JsonObject
) -> ClientError | UsageError:
    """Return an error with the sandbox's message and the names that it accepts."""
    detail = str(found.get("detail") or found.get("error") or f"HTTP {status}")
    if path == "links" and status == 404:
        return ClientError("no_links", "this sandbox has no links", hint="start it without --no-links", exit_code=1)
    if path == "revoke" and status == 404:
        users = _ask(args, context, "GET", "users").get("users", [])
        known = ", ".join(str(user.get("username")) for user in users[:20])
        return ClientError("not_found", detail, hint=f"users: {known}", exit_code=1)
    if status == 400:
        return UsageError(detail)
    return ClientError("refused_by_sandbox", detail, exit_code=1)
