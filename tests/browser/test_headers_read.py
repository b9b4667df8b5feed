"""The sandbox reads no header that only an SDK sends: what it does for an SDK, it does for a person's own code too.

By the source: each header that is read by name stands here, with the document that lets any client send it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SANDBOX = Path(__file__).parents[2] / "relay/token_relay/sandbox"
KNOWN = {
    "access-control-request-headers": "Fetch: a browser's preflight",
    "access-control-request-method": "Fetch: a browser's preflight",
    "auth0-forwarded-for": "Auth0, Customize Authentication: a server that signs people in",
    "authorization": "RFC 9110",
    "client-request-id": "[MS-OAPX] §2.2.1.1: a request's own name, for the log",
    "content-type": "RFC 9110",
    "cookie": "RFC 6265",
    "dpop": "RFC 9449",
    "host": "RFC 9110",
    "origin": "Fetch: a browser's request to another origin",
    "user-agent": "RFC 9110",
    "x-forwarded-for": "what a proxy sends, for the table of networks",
}


def headers_read(source: str) -> Iterator[str]:
    """Yield each name that is looked up in something called ``headers``; ``?`` where the name is computed."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(attr="get" | "getall" | "getone", value=place), args=[name, *_]):
                names = [name]
            case ast.Subscript(value=place, slice=name, ctx=ast.Load()):
                names = [name]
            case ast.Compare(
                left=ast.Set(elts=names), comparators=[ast.Call(func=ast.Attribute(attr="keys", value=place))]
            ):
                pass
            case ast.Compare(ops=[ast.In() | ast.NotIn()], comparators=[place], left=name):
                names = [name]
            case _:
                continue
        if (
            isinstance(place, ast.Attribute | ast.Name)
            and getattr(place, "attr", getattr(place, "id", "")) == "headers"
        ):
            for name in names:
                yield name.value.lower() if isinstance(name, ast.Constant) and isinstance(name.value, str) else "?"


def test_every_header_that_is_read_is_a_documented_one_of_any_client() -> None:
    found: dict[str, set[str]] = {}
    for path in sorted(SANDBOX.rglob("*.py")):
        for name in headers_read(path.read_text(encoding="utf-8")):
            found.setdefault(name, set()).add(path.name)
    assert {name: places for name, places in found.items() if name not in KNOWN} == {}
    assert set(found) == set(KNOWN), "the table names headers that nobody reads any more"


def test_a_new_way_to_read_one_is_seen() -> None:
    source = (
        'request.headers.get("X-Client-SKU")\n"Auth0-Client" in headers\nheaders["x-a"]\nrequest.headers.get(name)\n'
        '{"x-b", "x-c"} <= request.headers.keys()\n'
        'headers["Location"] = url\nbody.get("x")\n'
    )
    assert sorted(headers_read(source)) == ["?", "auth0-client", "x-a", "x-b", "x-c", "x-client-sku"]
