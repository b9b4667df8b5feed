"""One agent's sockets, as its pages use them: a connection for each command, its questions asked by a conversation.

It trusts the agent's answers, whose socket lies where only the agent's user can write, and limits their size. Where the
agent listens is asked anew whenever it does not listen where it did: an agent may be started after its page.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from token_relay.host.paths import CONTROL_SOCKET, TOKEN_SOCKET, Kind
from token_relay.pages.conversation import Talk
from token_relay.protocol.errors import LocalError, RelayError, TransientError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Json = dict[str, Any]
LINE_BYTES_MAX = 4_194_304  # the longest line that an agent sends
TOKEN_BYTES_MAX = 262_144
TOKEN_WAIT_S = 20.0  # the agent fetches for 10 s at most by itself

Locate = Callable[[str], Path]
"""Returns the path of a socket, by its file's name. May wait for an agent that starts. Raises RelayError."""


class AgentAwayError(TransientError):
    """The agent does not run, or does not take or end a connection: its pages say so and try again."""


class AgentClient:
    """The agent of one kind."""

    def __init__(self, kind: Kind, locate: Locate) -> None:
        self.kind = kind
        self._locate = locate
        self._places: dict[str, Path] = {}

    async def call(self, command: str, args: Json | None = None, person: Talk | None = None) -> Json:
        """Run one command and return its result; without ``person`` each question is declined.

        Cancellation closes the connection; for the agent, its client is gone then.

        Raises:
            AgentAwayError: it does not run, or went away. RelayError: what the agent says. LocalError: an answer of
                another protocol.
        """
        async with self._connection(CONTROL_SOCKET) as (reader, writer):
            await _write(writer, {"v": 1, "command": command, "args": args or {}})
            while True:
                line = await _line(reader)
                match line:
                    case {"progress": dict(step)}:
                        if person is not None:
                            await person.progress(step)
                    case {"ask": dict(asked)}:
                        more = {str(name): value for name, value in asked.items() if name not in ("id", "kind", "text")}
                        kind, text = str(asked.get("kind")), str(asked.get("text", ""))
                        value = None if person is None else await person.ask(kind, text, **more)
                        said = {"cancelled": True} if value is None else {"value": value}
                        await _write(writer, {"answer": {"id": asked.get("id"), **said}})
                    case {"result": dict(result)}:
                        return result
                    case {"error": dict(error)}:
                        raise RelayError(str(error.get("message")), hint=str(error.get("hint", "")))
                    case _:
                        raise LocalError("the agent's answer is not of this protocol")

    async def token(self, query: Mapping[str, str]) -> tuple[int, Json]:
        """Ask the token API; return the status and the body, of a refusal too. Raises AgentAwayError, LocalError."""
        async with self._connection(TOKEN_SOCKET) as (reader, writer):
            head = f"GET /v1/token?{urlencode(query)} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n"
            raw = bytearray()
            try:
                writer.write(head.encode())
                async with asyncio.timeout(TOKEN_WAIT_S):
                    while (part := await reader.read(65_536)) and len(raw) <= TOKEN_BYTES_MAX:
                        raw += part
            except TimeoutError:
                raise AgentAwayError("the agent does not answer", hint="see its log") from None
            except OSError:
                raw.clear()  # what came of it is no answer
        if not raw:
            raise AgentAwayError("the agent closed the connection without an answer", hint="see its log")
        head_lines, _, answer = bytes(raw).partition(b"\r\n\r\n")
        try:
            status, body = int(head_lines.split()[1]), json.loads(answer)
        except (IndexError, ValueError, RecursionError):
            raise LocalError("the agent's answer is not of this protocol") from None
        if not isinstance(body, dict):
            raise LocalError("the agent's answer is not a JSON object")
        return status, body

    @asynccontextmanager
    async def _connection(self, name: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await self._open(name)
        try:
            yield reader, writer
        finally:
            writer.close()

    async def _open(self, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await asyncio.open_unix_connection(self._places[name], limit=LINE_BYTES_MAX)
        except (OSError, KeyError):
            pass  # the first time, or it does not listen there any more
        try:
            place = await asyncio.to_thread(self._locate, name)
            self._places[name] = place
            return await asyncio.open_unix_connection(place, limit=LINE_BYTES_MAX)
        except RelayError as exc:
            raise AgentAwayError(str(exc), hint=exc.hint) from exc
        except OSError as exc:
            raise AgentAwayError(f"no connection to the {self.kind}'s agent: {exc.strerror}") from exc


async def _write(writer: asyncio.StreamWriter, line: Json) -> None:
    try:
        writer.write(json.dumps(line).encode() + b"\n")
        await writer.drain()
    except OSError:
        pass  # it hung up on us; its reason, if any, is still to be read


async def _line(reader: asyncio.StreamReader) -> object:
    try:
        return json.loads(await reader.readuntil(b"\n"))
    except (asyncio.IncompleteReadError, OSError):
        said = "the agent closed the connection without an answer; what it did is unknown"
        raise AgentAwayError(said, hint="see its log") from None
    except (asyncio.LimitOverrunError, ValueError, RecursionError):
        raise LocalError("the agent's answer is not a line of JSON") from None
