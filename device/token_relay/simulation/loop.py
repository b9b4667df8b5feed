"""An event loop with virtual time: when no callback can run, it moves its clock to the next timer instead of waiting.

So hours cost nothing, ``asyncio.timeout`` and ``asyncio.sleep`` in the agents' own code count in the world's time, and
one seed gives one history: callbacks run in the order in which they became ready, timers in the order of their moments
and, at equal moments, in the order in which they were set. Threads, sockets, files and processes are refused, since
they depend on real time.

Each timer belongs to the device whose code set it (:data:`OWNER`, a context variable), so that a suspended device's
timers can be postponed together.

A history that cannot go on is an error and never a hang: no callback can run and no timer is left
(:class:`DeadlockError`, which names the waiting tasks), time has passed the horizon, or the same moment never ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, NoReturn, TypeVarTuple

Ts = TypeVarTuple("Ts")

OWNER: contextvars.ContextVar[str] = contextvars.ContextVar("OWNER", default="")
"""The name of the device whose code is running; empty outside of all devices."""

HORIZON_S = 10 * 365 * 86_400.0  # no history is longer; one that reaches it waits for something that never comes
STEPS_AT_ONCE_MAX = 1_000_000  # callbacks without time passing; the busiest moment so far had some thousands


class DeadlockError(RuntimeError):
    """The history cannot go on; the message names the waiting tasks and their places."""


class VirtualHandle(asyncio.TimerHandle):
    """A callback that waits for its turn, or a timer that waits for its moment."""

    __slots__ = ("deadline", "owner", "started")

    def __init__(  # noqa: PLR0917  # not the parent's, which looks at debug flags, for each of millions
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: VirtualLoop,
        context: contextvars.Context | None,
        owner: str,
    ) -> None:
        self._when = when
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = contextvars.copy_context() if context is None else context
        self._cancelled = False
        self._scheduled = False
        self._repr = None
        self.owner = owner
        self.started = when  # the moment when a sleep of a device's clock began
        self.deadline: float | None = None  # its end by boot time; None for other timers

    def cancel(self) -> None:
        self._cancelled = True
        self._callback = _nothing
        self._args = ()


class VirtualTurn(asyncio.Handle):
    """A callback that waits for its turn, with only what this loop needs of a handle: there are millions of them."""

    __slots__ = ()

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context | None
    ) -> None:
        self._callback = callback
        self._args = args
        self._context = contextvars.copy_context() if context is None else context
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module. ``choose`` draws which of several devices runs next; without it, the order of arrival decides."""

    def __init__(self, *, choose: Random | None = None) -> None:
        super().__init__()
        self._now = 0.0
        self._number = 0
        self._turns: deque[VirtualTurn | VirtualHandle] = deque()
        self._timers: list[tuple[float, int, VirtualHandle]] = []
        self._quiet: deque[asyncio.Future[None]] = deque()
        self._failure: BaseException | None = None
        self._choose = choose
        self._stop = False
        self._is_sleep = False
        self.steps = 0
        """The number of callbacks that have run so far."""
        self.horizon_s = HORIZON_S
        self.on_time: Callable[[float], None] | None = None
        """Called with the seconds, whenever time has passed."""
        self.problems: list[dict[str, Any]] = []
        """Reports of asyncio that did not end the history (an exception that was never retrieved)."""

    # -- time ------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Return the world's time in seconds since its beginning."""
        return self._now

    def choose(self, random: Random) -> None:
        """Draw which device runs next from now on."""
        self._choose = random

    def begin_at(self, time: float) -> None:
        """Set the time of a world in which nothing has happened yet."""
        if self._timers or time < self._now:
            raise RuntimeError("time never goes back, and never passes over a timer")
        self._now = time

    async def settle(self) -> None:
        """Return when everything that can run now has run, without time passing."""
        quiet = self.create_future()
        self._quiet.append(quiet)
        await quiet

    def mark_sleep(self) -> None:
        """Treat the timer that is set next as a sleep of a device's own clock; see :meth:`postpone`."""
        self._is_sleep = True

    def postpone(self, owner: str, seconds: float) -> None:
        """Postpone the timers of a device that is suspended from now on, as its monotonic clock stands still.

        :class:`token_relay.host.clock.SystemClock` cuts a sleep into pieces of at most a minute. So a sleep of the
        device's own clock ends with the piece that is running now, or at its own moment if that is later.
        """
        resumed = self._now + seconds
        timers = []
        for when, number, handle in self._timers:
            moved = when
            if handle.owner == owner and not handle._cancelled:
                if handle.deadline is None:
                    moved = when + seconds
                else:
                    piece_s = min(handle.deadline - self._now, 60.0 - (self._now - handle.started) % 60.0)
                    moved = max(handle.deadline, resumed + piece_s)
            timers.append((moved, number, handle))
        heapq.heapify(timers)
        self._timers = timers

    # -- what asyncio calls ----------------------------------------------------------------------------

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> VirtualTurn:
        handle = VirtualTurn(callback, args, context)
        self._turns.append(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> VirtualHandle:
        owner = OWNER.get() if context is None else context.get(OWNER, "")
        handle = VirtualHandle(when, callback, args, self, context, owner)
        if self._is_sleep:
            self._is_sleep = False
            handle.started, handle.deadline = self._now, when
        self._number += 1
        heapq.heappush(self._timers, (when, self._number, handle))
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> VirtualHandle:
        return self.call_at(self._now + max(delay, 0.0), callback, *args, context=context)

    def stop(self) -> None:
        self._stop = True

    def run_forever(self) -> None:
        self._check_closed()  # type: ignore[attr-defined]  # of BaseEventLoop, not in its published types
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("a world runs inside of another event loop")
        asyncio._set_running_loop(self)
        try:
            self._run()
        finally:
            self._stop = False
            asyncio._set_running_loop(None)

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep reports of exceptions that were never retrieved; an exception of a bare callback ends the history."""
        exception = context.get("exception")
        if isinstance(exception, BaseException) and "future" not in context and "task" not in context:
            self.fail(exception)
        else:
            self.problems.append(context)

    def fail(self, exception: BaseException) -> None:
        """End the history here: nothing runs any more, and the caller that runs this loop gets the exception."""
        if self._failure is None:
            self._failure = exception

    def forgive(self) -> None:
        """Forget a failure, so that the rest can be cleaned up."""
        self._failure = None

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> NoReturn:
        raise _refusal("threads")

    def run_in_executor(self, executor: object, func: object, *args: Any) -> NoReturn:  # type: ignore[override]  # refused
        raise _refusal("threads")

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Do nothing: there is no executor. ``timeout`` came with Python 3.12, whose asyncio.Runner passes one."""

    async def shutdown_asyncgens(self) -> None:
        """Do nothing: asynchronous generators end with their last reader."""

    async def getaddrinfo(self, *args: object, **more: object) -> NoReturn:
        raise _refusal("name look-ups")

    async def create_connection(self, *args: object, **more: object) -> NoReturn:
        raise _refusal("sockets")

    async def create_server(self, *args: object, **more: object) -> NoReturn:
        raise _refusal("sockets")

    async def create_datagram_endpoint(self, *args: object, **more: object) -> NoReturn:
        raise _refusal("sockets")

    async def create_unix_connection(self, *args: object, **more: object) -> NoReturn:
        raise _refusal("sockets")

    async def create_unix_server(self, *args: object, **more: object) -> NoReturn:
        raise _refusal("sockets")

    async def subprocess_exec(self, *args: object, **more: object) -> NoReturn:
        raise _refusal("processes")

    async def subprocess_shell(self, *args: object, **more: object) -> NoReturn:
        raise _refusal("processes")

    def add_reader(self, *args: object) -> NoReturn:
        raise _refusal("sockets")

    def add_writer(self, *args: object) -> NoReturn:
        raise _refusal("sockets")

    # -- running ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        turns = self._turns
        left = STEPS_AT_ONCE_MAX
        while True:
            while turns:
                handle = turns.popleft() if self._choose is None or len(turns) == 1 else self._pick()
                if handle._cancelled:
                    continue
                left -= 1
                if left < 0:
                    raise DeadlockError(f"at {self._now:.3f} s time does not pass any more: {self.waiting()}")
                try:
                    handle._context.run(handle._callback, *handle._args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as exc:
                    self.fail(exc)
                if self._failure is not None:
                    failure, self._failure = self._failure, None
                    raise failure
                if self._stop:
                    return
            if self._quiet:
                quiet = self._quiet.popleft()
                if not quiet.done():
                    quiet.set_result(None)
                continue
            self.steps += STEPS_AT_ONCE_MAX - left
            self._pass_time()
            left = STEPS_AT_ONCE_MAX

    def _pass_time(self) -> None:
        timers = self._timers
        while timers:
            when, _, handle = heapq.heappop(timers)
            if handle._cancelled:
                continue
            if when > self._now:
                if when > self.horizon_s:
                    raise DeadlockError(f"at {when:.0f} s the world's end is reached: {self.waiting()}")
                passed, self._now = when - self._now, when
                if self.on_time is not None:
                    self.on_time(passed)
            self._turns.append(handle)
            return
        raise DeadlockError(f"at {self._now:.3f} s nobody can go on: {self.waiting()}")

    def _pick(self) -> VirtualTurn | VirtualHandle:
        """Draw the device that runs next; its own callbacks stay in order."""
        owners = list(dict.fromkeys(handle._context.get(OWNER, "") for handle in self._turns))
        assert self._choose is not None
        owner = owners[0] if len(owners) == 1 else self._choose.choice(owners)
        at = next(i for i, handle in enumerate(self._turns) if handle._context.get(OWNER, "") == owner)
        handle = self._turns[at]
        del self._turns[at]
        return handle

    def waiting(self) -> str:
        """Name the tasks that wait, and where."""
        named = []
        for task in asyncio.all_tasks(self):
            frames = task.get_stack(limit=1)
            where = f"{frames[-1].f_code.co_qualname}:{frames[-1].f_lineno}" if frames else "?"
            named.append(f"{getattr(task.get_coro(), '__qualname__', task.get_name())} in {where}")
        return "; ".join(sorted(named)) or "no task"


def _nothing(*_: object) -> None:
    """Stand for the callback of a cancelled timer."""


def _refusal(what: str) -> RuntimeError:
    return RuntimeError(f"the simulated world has no {what}")
