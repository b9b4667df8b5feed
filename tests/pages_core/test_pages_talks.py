"""A command that asks, as pages: every answer goes to its own question, and nowhere else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from tests.pages_core.page_kit import Headers, Reply, ask, enter, form, serving, streaming
from tests.watchdog import HANG_S
from token_relay.pages import conversation
from token_relay.pages.conversation import ANSWER_CHARS_MAX, OPEN_MAX, TALKS_MAX, Talk, Talks
from token_relay.pages.server import PageRoute, PageServer
from token_relay.pages.visit import Answer, PageRequest
from token_relay.protocol.errors import TransientError

pytestmark = pytest.mark.asyncio
Work = Callable[[Talk], Awaitable[Mapping[str, object]]]


@dataclass
class Place:
    """A server with one command, and the person at it."""

    server: PageServer
    talks: Talks
    cookie: Headers
    heard: list[str | None] = field(default_factory=list)

    async def get(self, place: str) -> Reply:
        return await ask(self.server, self.server.root + place, headers=self.cookie)

    async def post(self, place: str, body: str = "") -> Reply:
        headers = form(self.server, self.cookie)
        return await ask(self.server, self.server.root + place, method="POST", headers=headers, body=body.encode())

    async def begin(self) -> str:
        """Start the command; return its page."""
        reply = await self.post("start", "a=b")
        assert reply.status == 303, reply.body
        return reply.header("Location").removeprefix(self.server.root)

    async def answer(self, talk: str, body: str, number: int | None = None) -> Reply:
        """Answer the question that the page shows, or another one."""
        page = (await self.get(talk)).body
        shown = re.search(r'name="number" value="(\d+)"', page)
        return await self.post(f"{talk}/answer", f"number={number or (shown[1] if shown else 0)}&{body}")


@asynccontextmanager
async def placed(work: Work, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(conversation, "SETTLE_S", HANG_S)  # so an answer's page is always that of what follows it
    talks = Talks()

    async def start(visit: PageRequest) -> Answer:
        return await talks.start(visit, "Try <it>", work, back="after")

    async with asyncio.timeout(2 * HANG_S), serving(PageRoute("start", start), *talks.routes) as server:
        yield Place(server, talks, await enter(server))
        await talks.stop()


async def two_questions(talk: Talk) -> Mapping[str, object]:
    first = await talk.ask("value", "What <first>?")
    await talk.progress({"message": "a <step>"})
    second = await talk.ask("password", "What second?")
    return {"message": f"{first} and {second and len(second)}"}


async def test_questions_steps_and_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with placed(two_questions, monkeypatch) as place:
        talk = await place.begin()
        page = (await place.get(talk)).body
        assert "<h1>Try &lt;it&gt;</h1>" in page and "What &lt;first&gt;?" in page and 'type="text"' in page
        assert f'data-stream="{place.server.root}{talk}/stream"' in page
        reply = await place.answer(talk, "value=%3Cb%3E")
        assert reply.status == 303 and reply.header("Location") == place.server.root + talk
        page = (await place.get(talk)).body
        assert "a &lt;step&gt;" in page and "What second?" in page and 'type="password"' in page
        assert "&lt;b&gt;" not in page, "an answer is shown by nothing but its command"
        assert (await place.answer(talk, "value=SECRET")).status == 303
        page = (await place.get(talk)).body
        assert "&lt;b&gt; and 6" in page and "SECRET" not in page and "data-stream" not in page
        assert f'href="{place.server.root}after"' in page and "<form" not in page
        assert place.talks.open == []


async def test_a_question_is_answered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with placed(two_questions, monkeypatch) as place:
        talk = await place.begin()
        assert (await place.answer(talk, "value=one", number=1)).status == 303
        for late in (1, 3, 999_999_999_999):
            reply = await place.answer(talk, "value=two", number=late)
            assert reply.status == 400 and "answered already" in reply.body
        for number in ("", "-2", "2.0", "%C2%B2", "two", "0"):
            assert (await place.post(f"{talk}/answer", f"number={number}&value=x")).status == 400
        assert (await place.post(f"{talk}/answer", "value=x")).status == 400
        assert "What second?" in (await place.get(talk)).body, "no answer to another question has gone to this one"
        assert (await place.answer(talk, "value=two", number=2)).status == 303
        assert "One and 3" in (await place.get(talk)).body
        assert (await place.answer(talk, "value=two", number=2)).status == 400


async def test_two_answers_at_once_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with placed(two_questions, monkeypatch) as place:
        talk = await place.begin()
        path = f"{talk}/answer"
        both = await asyncio.gather(*(place.post(path, f"number=1&value={one}") for one in ("a", "b")))
        assert sorted(reply.status for reply in both) == [303, 400]
        talk_itself = place.talks.open[0]
        asked = talk_itself.question
        assert asked is not None and asked.number == 2
        talk_itself.answer(2, "x")  # and before the command has woken
        assert (await asyncio.gather(place.post(path, "number=2&value=y")))[0].status == 400


@pytest.mark.parametrize(
    ("body", "heard"),
    [
        ("value=x", "x"),
        ("value=", ""),
        ("", ""),
        ("value=x&decline=yes", None),
        ("value=x&resend=yes", ""),
        ("value=x&again=x", "x"),
        (f"value={'x' * ANSWER_CHARS_MAX}", "x" * ANSWER_CHARS_MAX),
        (f"value={'x' * (ANSWER_CHARS_MAX + 1)}", 400),
        ("value=x&again=y", 400),
        ("value=x&again=", 400),
    ],
    ids=range(10),
)
async def test_what_an_answer_may_be(body: str, heard: str | int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[str | None] = []

    async def work(talk: Talk) -> Mapping[str, object]:
        got.append(await talk.ask("new_password", "?"))
        return {}

    async with placed(work, monkeypatch) as place:
        talk = await place.begin()
        reply = await place.answer(talk, body)
        if heard == 400:
            assert reply.status == 400 and got == []
            assert (await place.answer(talk, "value=x&again=x")).status == 303
            heard = "x"
        assert got == [heard]
        assert "Done" in (await place.get(talk)).body


@pytest.mark.parametrize(
    ("kind", "more", "shown"),
    [
        ("code", {}, 'type="text" autocomplete="one-time-code" value="" inputmode="numeric" class="code" required'),
        ("code", {"can_resend": True}, 'name="resend" value="yes"'),
        ("password", {}, 'type="password" autocomplete="current-password" value="" required'),
        ("new_password", {}, '<input id="again" name="again" type="password" autocomplete="new-password" required>'),
        ("refresh_token", {}, 'type="password" autocomplete="off"'),
        ("confirm", {}, '<button name="value" value="yes">Yes</button>'),
        ("confirm", {"check_number": "123456"}, '<p class="number">123 456</p>'),
        ("choice", {"choices": [{"value": "<a>", "text": "A & b"}]}, 'value="&lt;a&gt;" required> A &amp; b</label>'),
        ("choice", {"choices": [{"value": "only"}]}, "> only</label>"),
        (
            "browser",
            {"url": 'https://x.example/?a=b&c="d'},
            'href="https://x.example/?a=b&amp;c=&#34;d" target="_blank"',
        ),
        ("invitation", {}, '<textarea id="value" name="value" rows="4" required'),
        ("contact", {"proposal": '"me"'}, 'value="&#34;me&#34;">'),
        ("value", {"pattern": "[a-z]+"}, "<code>[a-z]+</code>"),
    ],
)
async def test_each_kind_of_question_is_a_form(
    kind: str, more: dict[str, object], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(talk: Talk) -> Mapping[str, object]:
        return {"message": await talk.ask(kind, "Well?", **more)}

    async with placed(work, monkeypatch) as place:
        talk = await place.begin()
        page = (await place.get(talk)).body
        assert (
            shown in page
            and "Well?" in page
            and "<label" in page + ("<label" if kind in ("confirm", "browser") else "")
        )
        assert page.count("<h1>") == 1
        assert (await place.answer(talk, "value=yes")).status == 303
        assert "<strong>Yes</strong>" in (await place.get(talk)).body


async def test_an_error_says_what_to_do_and_a_mistake_of_ours_no_details(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[Exception] = [TransientError("the <agent> is away", hint="start it"), RuntimeError("SECRET")]

    async def work(talk: Talk) -> Mapping[str, object]:
        raise errors.pop(0)

    async with placed(work, monkeypatch) as place:
        page = (await place.get(await place.begin())).body
        assert "The &lt;agent&gt; is away" in page and "What to do: start it" in page and "data-stream" not in page
        with capture_logs() as logs:
            page = (await place.get(await place.begin())).body
        assert "Internal error, see the log" in page and "data-stream" not in page
        assert [entry["event"] for entry in logs] == ["command_failed"] and "SECRET" not in page + repr(logs)
        assert place.talks.open == []


def asking(ended: list[str]) -> Work:
    """Return work that asks once, and writes down that it has cleaned up."""

    async def work(talk: Talk) -> Mapping[str, object]:
        try:
            return {"message": await talk.ask("value", "?")}
        finally:
            ended.append("cleaned up")

    return work


async def test_giving_up_ends_the_command_and_looking_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    async with placed(asking(ended), monkeypatch) as place:
        talk = await place.begin()
        assert (await place.get(f"{talk}/end")).status == 303 and ended == []
        assert (await place.get(f"{talk}/answer")).status == 400 and ended == []
        assert (await place.post(f"{talk}/end", "a=b")).status == 303
        assert ended == ["cleaned up"]
        page = (await place.get(talk)).body
        assert "Given up" in page and "<form" not in page
        assert (await place.post(f"{talk}/end", "a=b")).status == 303
        assert (await place.answer(talk, "value=x", number=1)).status == 400


async def test_the_end_of_the_server_ends_what_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    async with placed(asking(ended), monkeypatch) as place:
        await place.begin()
        await place.begin()
        assert len(place.talks.open) == 2
    assert ended == ["cleaned up"] * 2 and place.talks.open == []


async def test_there_are_at_most_so_many_and_what_is_over_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(talk: Talk) -> Mapping[str, object]:
        return {"message": await talk.ask("value", "?")}

    async with placed(work, monkeypatch) as place:
        begun: list[str] = []
        for _ in range(TALKS_MAX - OPEN_MAX):
            begun.append(await place.begin())
            await place.answer(begun[-1], f"value=number-{len(begun)}")
        begun += [await place.begin() for _ in range(OPEN_MAX)]
        assert len({*begun}) == TALKS_MAX == 32
        reply = await place.post("start", "a=b")
        assert reply.status == 400 and f"{OPEN_MAX} commands are open" in reply.body
        await place.answer(begun[-1], "value=last")
        await place.begin()
        assert (await place.get(begun[0])).status == 400 and "Number-2<" in (await place.get(begun[1])).body


async def test_a_command_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with placed(two_questions, monkeypatch) as place:
        for path in ("talks/0", "talks/0/answer", "talks/0/end", "talks/0/stream"):
            reply = await place.get(path)
            assert reply.status == 400 and "over and forgotten" in reply.body


async def test_the_stream_of_a_command_shows_its_steps_and_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    async with placed(two_questions, monkeypatch) as place:
        talk = await place.begin()
        async with streaming(place.server, f"{place.server.root}{talk}/stream", place.cookie) as stream:
            told = await stream.until("done")
            assert [name for name, _ in told] == ["only", "element", "element", "done"]
            assert '"id": "talk-question"' in told[1][1] and "What &lt;first&gt;?" in told[1][1]
            await place.answer(talk, "value=x")
            seen = ""
            while "What second?" not in seen or "a &lt;step&gt;" not in seen:
                seen += "".join(data for _, data in await stream.until("done"))
            await place.answer(talk, "value=SECRET")
            while "X and 6" not in seen:
                seen += "".join(data for _, data in await stream.until("done"))
            assert "SECRET" not in seen


async def test_of_many_steps_the_newest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(talk: Talk) -> Mapping[str, object]:
        for number in range(conversation.STEPS_MAX + 10):
            await talk.progress({"message": f"step {number}."})
        return {}

    async with placed(work, monkeypatch) as place:
        page = (await place.get(await place.begin())).body
        assert page.count("<li>step ") == 200 and "step 209." in page and "step 10." in page and "step 9." not in page
