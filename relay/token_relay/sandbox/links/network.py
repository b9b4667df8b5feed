"""Links that can be cut: one small TCP proxy for each way between an end and a server.

:class:`TcpLink` listens on a port and passes bytes to a target, whole, slowly, or not at all;
:mod:`token_relay.sandbox.links.orders` has its states. It does not look at what it carries, so TLS passes like anything
else. All orders act at once: when ``cut()`` has returned, no byte passes any more.

Invariants. *No holes*: TCP delivers a stream whole or breaks it, so a connection of which one byte (or its end) has
vanished is reset when the link heals, and never goes on. *Order*: a byte never overtakes an earlier one, even when the
link changes between slow and whole. *Back-pressure*: the bytes on their way in one direction are bounded; at the limit
the sender is not read. *The port stays*: while a link refuses connections its port is still bound, so that nobody else
gets it.

Limits. A refused connection is refused by the kernel; one to a target that does not listen is accepted here and then
reset, which a direct one would not be. ``drop`` cannot swallow a SYN: a new connection is accepted and then silent.
A reset overtakes slow bytes, as it does in TCP.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self

from token_relay.protocol.errors import ConfigError
from token_relay.sandbox.links.connection import ProxiedConnection, Way, set_to_reset
from token_relay.sandbox.links.orders import LINK_NAMES, Cut, Direction, How, LinkReport, LinkState, Slow, Whole

CONNECTIONS_MAX = 256  # of one link; more are reset
CONNECT_TIMEOUT_S = 10.0  # for the target, which is on this machine as a rule
ACCEPT_PAUSE_S = 0.5  # when the process has no file descriptor left
BACKLOG = 100


class TcpLink:
    """One proxy. Use with ``async with``, or :meth:`start` and :meth:`stop`; all orders need the running loop."""

    def __init__(
        self,
        name: str,
        target_host: str,
        target_port: int,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Prepare; nothing is bound before :meth:`start`. Port 0 takes a free one, and keeps it."""
        self.name, self.host, self.port = name, host, port
        self.target_host, self.target_port = target_host, target_port
        self.state: LinkState = Whole()
        self.passed: dict[Way, int] = {"up": 0, "down": 0}
        self.bytes_lost = 0
        self._wall = wall
        self._since = wall()
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._bound: socket.socket | None = None  # never listens; holds the port while the link refuses connections
        self._listener: socket.socket | None = None
        self._connections: set[ProxiedConnection] = set()
        self._connections_in_all = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None

    # -- orders ------------------------------------------------------------------------------------------------

    def cut(self, how: How = "refuse", direction: Direction = "both") -> None:
        """Cut the link. See :data:`.sandbox.links.orders.How`; one direction goes with ``drop`` only (ValueError)."""
        self.set(Cut(how, direction))

    def slow(self, latency_s: float = 0.0, bytes_per_s: float | None = None) -> None:
        """Delay bytes, or limit how many pass in a second. Heals a cut. Raises ValueError."""
        self.set(Slow(latency_s, bytes_per_s))

    def heal(self) -> None:
        """Let everything pass; connections that have lost bytes are reset."""
        self.set(Whole())

    def set(self, state: LinkState) -> None:
        """Change to this state, at once.

        Raises:
            ConfigError: another program has taken the port of a link that refused connections.
        """
        if isinstance(state, Cut) and state.how == "refuse":
            self._unlisten()
        elif self._bound is not None:
            self._listen()
        if state != self.state:
            self._since = self._wall()
        self.state = state
        for connection in list(self._connections):
            if connection.survives(state):
                connection.changed()
            else:
                connection.reset()

    # -- questions ---------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Host and port, once started."""
        return _spelled(self.host, self.port)

    def loses(self, way: Way) -> bool:
        """Say whether bytes that go this way vanish now."""
        return isinstance(self.state, Cut) and self.state.loses(way)

    def status(self) -> LinkReport:
        """Return the link's state, since when, and what has passed."""
        return LinkReport(
            name=self.name,
            state=self.state,
            since=self._since,
            address=self.address,
            target=_spelled(self.target_host, self.target_port),
            connections=len(self._connections),
            connections_in_all=self._connections_in_all,
            bytes_up=self.passed["up"],
            bytes_down=self.passed["down"],
            bytes_lost=self.bytes_lost,
        )

    # -- life --------------------------------------------------------------------------------------------------

    async def start(self) -> Self:
        """Bind and listen.

        Raises:
            ConfigError: the port is taken.
        """
        assert self._bound is None, "started twice"
        self._bound = self._new_socket()
        self.port = self._bound.getsockname()[1]
        try:
            self.set(self.state)  # it may have been cut before it began
        except ConfigError:
            self._bound.close()
            self._bound = None
            raise
        return self

    async def stop(self) -> None:
        """Reset everything and give the port back."""
        self._unlisten()
        if self._bound is not None:
            self._bound.close()
            self._bound = None
        for connection in list(self._connections):
            connection.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the loop closes aborted sockets in its next turn

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def forget(self, connection: ProxiedConnection) -> None:
        """Take a connection that has ended off the list."""
        self._connections.discard(connection)

    def _new_socket(self) -> socket.socket:
        """Bind a socket to our port. Linux lets two sockets with SO_REUSEADDR have one port while none listens."""
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind((self.host, self.port))
        except OSError as exc:
            sock.close()
            raise ConfigError(f"link {self.name}: cannot listen on {self.address}: {exc.strerror}") from exc
        return sock

    def _listen(self) -> None:
        if self._listener is not None:
            return
        listener = self._new_socket()
        try:
            listener.listen(BACKLOG)
        except OSError as exc:
            listener.close()
            raise ConfigError(f"link {self.name}: cannot listen on {self.address}: {exc.strerror}") from exc
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def _unlisten(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()  # the kernel resets connections that wait to be accepted
            self._listener = None

    def _accept(self) -> None:
        assert self._listener is not None
        loop = asyncio.get_running_loop()
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as exc:
            if exc.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            loop.remove_reader(self._listener)  # else we would be called again at once, for ever
            self._pause = loop.call_later(ACCEPT_PAUSE_S, loop.add_reader, self._listener, self._accept)
            return
        sock.setblocking(False)
        if len(self._connections) >= CONNECTIONS_MAX:
            _refuse(sock)
            return
        is_silent = isinstance(self.state, Cut) and self.state.direction == "both"
        connection = ProxiedConnection(self, is_silent=is_silent)
        self._connections.add(connection)
        self._connections_in_all += 1
        task = loop.create_task(self._join(connection, sock), name=f"link {self.name}")
        self._tasks.add(task)  # held and awaited by stop()
        task.add_done_callback(self._tasks.discard)

    async def _join(self, connection: ProxiedConnection, sock: socket.socket) -> None:
        """Put the accepted socket into its connection, and connect that to the target."""
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: connection.device, sock)
            if not connection.is_silent and not connection.is_over:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await loop.create_connection(lambda: connection.server, self.target_host, self.target_port)
        except OSError:  # TimeoutError too: the target does not answer
            connection.reset()
        except asyncio.CancelledError:
            connection.reset()
            raise


class Network(Mapping[str, TcpLink]):
    """The links of one sandbox by name, started and stopped together."""

    def __init__(self, links: Iterable[TcpLink]) -> None:
        self._links = {link.name: link for link in links}

    @classmethod
    def between(
        cls,
        *,
        broker: tuple[str, int] | None,
        provider: tuple[str, int],
        host: str = "127.0.0.1",
        ports: Mapping[str, int] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> Self:
        """Return the four links from phone and companion to a broker and a provider, each a host and a port.

        Without a broker there are only two.
        """
        chosen = ports or {}
        targets = {"broker": broker, "provider": provider}
        links = []
        for name in LINK_NAMES:
            target = targets[name.partition("-")[2]]
            if target is not None:
                links.append(TcpLink(name, *target, host, chosen.get(name, 0), wall=wall))
        return cls(links)

    def __getitem__(self, name: str) -> TcpLink:
        return self._links[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._links)

    def __len__(self) -> int:
        return len(self._links)

    def cut(self, *names: str, how: How = "refuse", direction: Direction = "both") -> None:
        """Cut these links, or all. Raises KeyError or ValueError, before any is cut."""
        self.set(Cut(how, direction), *names)

    def slow(self, *names: str, latency_s: float = 0.0, bytes_per_s: float | None = None) -> None:
        """Slow these links down, or all. Raises KeyError or ValueError."""
        self.set(Slow(latency_s, bytes_per_s), *names)

    def heal(self, *names: str) -> None:
        """Heal these links, or all. Raises KeyError."""
        self.set(Whole(), *names)

    def set(self, state: LinkState, *names: str) -> None:
        """Bring these links, or all, into one state. Raises KeyError before any is changed."""
        for link in [self._links[name] for name in names or self._links]:
            link.set(state)

    def status(self) -> list[LinkReport]:
        """Return a report on each link."""
        return [link.status() for link in self._links.values()]

    async def start(self) -> Self:
        """Start all. Raises ConfigError, with none left running."""
        try:
            for link in self._links.values():
                await link.start()
        except ConfigError:
            await self.stop()
            raise
        return self

    async def stop(self) -> None:
        """Stop all."""
        for link in self._links.values():
            await link.stop()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def _spelled(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refuse(sock: socket.socket) -> None:
    set_to_reset(sock)
    sock.close()
