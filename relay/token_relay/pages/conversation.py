"""A command that runs and asks, as pages: each of its questions is a form, its steps are a list, its end is a sentence.

The work is a coroutine that gets the conversation and may call :meth:`Talk.ask` and
:meth:`Talk.progress`, which are the agent's ``Exchange``. An answer goes to the question and is kept nowhere:
not in the list of steps, not in a page. A conversation that nobody needs any more ends with its server.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog

from token_relay.pages.server import PageRoute, where_of
from token_relay.pages.visit import Answer, Elements, PageRequest
from token_relay.protocol.errors import LocalError, RelayError

log = structlog.get_logger()

TALKS_MAX = 32  # the oldest that is over goes first
OPEN_MAX = 12  # with 16 streams, fewer than the 32 connections that an agent takes: its command line stays free
STEPS_MAX = 200
ANSWER_CHARS_MAX = 16_384
SETTLE_S = 2.0  # what follows an answer is mostly there by then, so that the next page shows it already

Values = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """What a command asks: ``kind`` and ``more`` as the control socket has them."""

    number: int
    kind: str
    text: str
    more: Values
    answer: asyncio.Future[str | None] = field(repr=False)


class Talk:
    """One command with one person. ``template`` shows its steps as an element with the id ``talk-steps``; ``back`` is
    the place to go to afterwards."""

    def __init__(self, title: str, *, back: str, template: str) -> None:
        self.talk_id = secrets.token_hex(8)
        self.title, self.back, self.template = title, back, template
        self.steps: list[Values] = []
        self.question: OpenQuestion | None = None
        self.result: Values | None = None
        self.failure: tuple[str, str] | None = None  # why, and what to do
        self.task: asyncio.Task[None] | None = None
        self._asked = 0
        self._changed = asyncio.Event()

    @property
    def is_attended(self) -> bool:
        """Whether somebody may still answer."""
        return True

    @property
    def is_over(self) -> bool:
        """Whether the command has ended."""
        return self.result is not None or self.failure is not None

    async def progress(self, step: Mapping[str, object]) -> None:
        """Show a step."""
        self.steps = [*self.steps[1 - STEPS_MAX :], step]
        self._tell()

    async def ask(self, kind: str, text: str, **more: object) -> str | None:
        """Show a question, and wait for its answer; None when the person declines."""
        self._asked += 1
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.question = OpenQuestion(self._asked, kind, text, more, answer)
        self._tell()
        try:
            return await answer
        finally:
            self.question = None

    def answer(self, number: int, value: str | None) -> None:
        """Answer the open question. Raises LocalError: it is another one by now."""
        asked = self.question
        if asked is None or asked.number != number or asked.answer.done():
            raise LocalError("this question was answered already, or is over", hint="go on from the page as it is now")
        if value is not None and len(value) > ANSWER_CHARS_MAX:
            raise LocalError(f"an answer has at most {ANSWER_CHARS_MAX} characters")
        asked.answer.set_result(value)

    async def changed(self) -> None:
        """Wait for the next step, question or end."""
        await self._changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def run(self, work: Callable[[Talk], Awaitable[Values]]) -> None:
        """Do the work, and keep how it ended."""
        try:
            self.result = await work(self)
        except RelayError as exc:
            self.failure = str(exc), exc.hint
        except asyncio.CancelledError:
            self.failure = "given up", ""
            raise
        except Exception as exc:
            log.error("command_failed", error_type=type(exc).__name__, where=where_of(exc))
            self.failure = "internal error, see the log", ""
        finally:
            self._tell()


class Talks:
    """All conversations of a server, and the pages to have them: ``talks/ID``."""

    def __init__(self) -> None:
        self._all: dict[str, Talk] = {}

    @property
    def routes(self) -> tuple[PageRoute, ...]:
        """Return the pages."""
        return (
            PageRoute("talks/{id}", self._page),
            PageRoute("talks/{id}/answer", self._answer),
            PageRoute("talks/{id}/end", self._end),
            PageRoute("talks/{id}/stream", self._stream),
        )

    async def start(
        self,
        visit: PageRequest,
        title: str,
        work: Callable[[Talk], Awaitable[Values]],
        *,
        back: str = "",
        template: str = "talk_steps.html",
    ) -> Answer:
        """Begin, and send the browser to the conversation's page.

        Raises:
            LocalError: too many are open.
        """
        for old in [one for one in self._all.values() if one.is_over]:
            if len(self._all) >= TALKS_MAX:
                del self._all[old.talk_id]
        if len(self.open) >= OPEN_MAX:
            raise LocalError(f"{OPEN_MAX} commands are open", hint="end some of them first, or wait ten minutes")
        talk = Talk(title, back=back, template=template)
        self._all[talk.talk_id] = talk
        changed = asyncio.ensure_future(talk.changed())
        talk.task = asyncio.create_task(talk.run(work))
        await _settled(talk, changed)
        return visit.go(f"talks/{talk.talk_id}")

    async def stop(self) -> None:
        """End what still runs."""
        tasks = [talk.task for talk in self._all.values() if talk.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def open(self) -> list[Talk]:
        """Return those that are not over."""
        return [talk for talk in self._all.values() if not talk.is_over]

    def of(self, visit: PageRequest) -> Talk:
        """Return the conversation that a path names. Raises LocalError: there is none."""
        talk = self._all.get(visit.part("id"))
        if talk is None:
            raise LocalError("this command is over and forgotten")
        return talk

    async def _page(self, visit: PageRequest) -> Answer:
        talk = self.of(visit)
        return visit.page("conversation.html", talk=talk)

    async def _answer(self, visit: PageRequest) -> Answer:
        talk = self.of(visit)
        value: str | None = visit.fields.get("value", "")
        if "again" in visit.fields and visit.fields["again"] != value:
            raise LocalError("the two are not the same", hint="go back, and type it twice alike")
        if "decline" in visit.fields:
            value = None
        if "resend" in visit.fields:
            value = ""
        number = visit.fields.get("number", "")
        changed = asyncio.ensure_future(talk.changed())
        try:
            talk.answer(int(number) if number.isascii() and number.isdigit() and len(number) < 9 else 0, value)
        except LocalError:
            changed.cancel()
            raise
        await _settled(talk, changed)
        return visit.go(f"talks/{talk.talk_id}")

    async def _end(self, visit: PageRequest) -> Answer:
        talk = self.of(visit)
        if visit.is_post and talk.task is not None:
            talk.task.cancel()
            await asyncio.wait({talk.task})
        return visit.go(f"talks/{talk.talk_id}")

    async def _stream(self, visit: PageRequest) -> Answer:
        talk = self.of(visit)

        async def look() -> Elements:
            return {
                "talk-steps": visit.html(talk.template, talk=talk),
                "talk-question": visit.html("talk_question.html", talk=talk),
            }

        return await visit.live(look, talk.changed)


async def _settled(talk: Talk, changed: asyncio.Future[None]) -> None:
    """Wait a moment for what follows an answer; steps alone are not worth a page."""
    try:
        async with asyncio.timeout(SETTLE_S):
            await changed
            while talk.question is None and not talk.is_over:
                await talk.changed()
    except TimeoutError:
        pass
    finally:
        changed.cancel()
