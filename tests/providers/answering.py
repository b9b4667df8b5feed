"""What the providers written in Python have in common as programs: a server, a log of its tokens, and an ear.

Such a program reads its options from the first line of standard input (a password is among them, and a command line is
for everybody), says its issuer in one line on standard output, then answers one line of JSON for each that it reads,
and ends with standard input.
"""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

Commands = dict[str, Callable[..., Any]]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: standard error is for what goes wrong."""


class Logged:
    """A WSGI application, and one line for each request of a token: which grant, which status, which error."""

    def __init__(self, application: Any, token_path: str) -> None:
        self._application = application
        self._token_path = token_path
        self.lines: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] != self._token_path:
            return list(self._application(environ, start_response))
        sent = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(sent)
        said: list[str] = []

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            said.append(status[:3])
            return start_response(status, headers, *rest)

        body = b"".join(self._application(environ, start))
        error = "" if said == ["200"] else json.loads(body).get("error", "")
        kind = parse_qs(sent.decode()).get("grant_type", ["?"])[0]
        self.lines.append(f"{kind} {said[0]} {error}".rstrip())
        return [body]


def options() -> dict[str, Any]:
    """Read what this program was started for."""
    told: dict[str, Any] = json.loads(sys.stdin.readline())
    return told


def listen() -> WSGIServer:
    """Return a server that has its port and no application yet."""
    return _Server(("127.0.0.1", 0), _Handler)


def serve(server: WSGIServer, application: Any, token_path: str, issuer: str, commands: Commands) -> None:
    """Answer requests and lines until standard input ends."""
    logged = Logged(application, token_path)
    server.set_app(logged)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    known = {**commands, "log": lambda: logged.lines}
    print(json.dumps({"issuer": issuer}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(known[order.pop("do")](**order), default=str), flush=True)
