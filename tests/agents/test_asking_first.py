"""What takes something away asks first: nothing happens without a plain yes, and the question says what follows."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.agents.test_device_rows import grant, handoff, pairing
from tests.agents.world_kit import World, running
from token_relay.agents.records import Grant, Pairing, PhoneHandoff
from token_relay.protocol.errors import PersonNeededError
from token_relay.service.commands import confirm
from token_relay.service.companion import _CompanionCommands
from token_relay.service.phone import PhoneCommands
from token_relay.service.questions import (
    erase_question,
    forget_question,
    live_of,
    lost_steps,
    revoke_question,
    unpair_question,
)

ACCOUNT = "password@contoso.example"
COMMANDS: list[tuple[str, dict[str, Any]]] = [
    ("revoke", {"device": "watch"}),
    ("revoke", {"device": "watch", "lost": True}),
    ("unpair", {"device": "watch"}),
    ("forget", {"device": "watch"}),
    ("companion forget", {}),
    ("companion forget", {"pairing": True}),
    ("forget_phone", {"phone": "phone"}),
]
EACH = pytest.mark.parametrize(("command", "args"), COMMANDS)


class Asked:
    """The person at the command line, with one answer to everything."""

    def __init__(self, answer: str | None) -> None:
        self.answer = answer
        self.questions: list[tuple[str, str]] = []
        self.is_attended = True

    async def ask(self, kind: Any, text: str, **extra: Any) -> str | None:
        self.questions.append((str(kind), text))
        return self.answer

    async def progress(self, step: dict[str, Any]) -> None:
        return None


async def run(world: World, command: str, args: dict[str, Any], person: Asked) -> dict[str, Any]:
    """Run a command as the control socket does."""
    runtime: Any = SimpleNamespace(channel=world.phone.agent.turns.channel, clock=world.clock, kind="phone")
    http: Any = None  # none of them asks the provider
    phone, watch = PhoneCommands(runtime, world.phone.agent, http), _CompanionCommands(runtime, world.watch.agent, http)
    handler: Any = {"companion forget": watch.forget, "forget_phone": watch.forget_phone}.get(command)
    end = world.watch if handler else world.phone
    return await end.call((handler or getattr(phone, command))(dict(args), person))


async def disks(world: World) -> list[Any]:
    grants = [(row.grant_id, row.state) for row in await world.watch.rows(Grant)]
    handoffs = [row.state for row in await world.phone.rows(PhoneHandoff)]
    return [grants, handoffs, *[[row.state for row in await end.rows(Pairing)] for end in (world.phone, world.watch)]]


@pytest.mark.asyncio
@EACH
async def test_nothing_happens_without_a_yes(command: str, args: dict[str, Any]) -> None:
    async with running() as world:
        await world.phone.hand_off()
        await world.clock.advance(5)
        before = await disks(world)
        for answer, said in ((None, {}), ("", {}), ("no", {}), ("y", {"yes": "true"}), (None, {"yes": 1})):
            person = Asked(answer)
            with pytest.raises(PersonNeededError, match="nothing was changed") as refused:
                await run(world, command, {**args, **said}, person)
            assert "--yes" in refused.value.hint
            assert [kind for kind, _ in person.questions] == ["confirm"] and ACCOUNT in person.questions[0][1]
        assert await disks(world) == before


@pytest.mark.asyncio
@EACH
@pytest.mark.parametrize("beforehand", [False, True])
async def test_with_a_yes_it_is_done_and_asked_once(command: str, args: dict[str, Any], beforehand: bool) -> None:
    async with running() as world:
        await world.phone.hand_off()
        before, person = await disks(world), Asked(None if beforehand else "yes")
        done = await run(world, command, {**args, "yes": beforehand}, person)
        assert len(person.questions) == (0 if beforehand else 1)
        assert await disks(world) != before
        assert ("steps" in done) is ("lost" in args)


@pytest.mark.asyncio
async def test_a_device_that_holds_nothing_is_revoked_without_a_question() -> None:
    async with running() as world:
        person = Asked(None)
        assert (await run(world, "revoke", {"device": "watch"}, person))["handoffs"] == []
        assert person.questions == []


@pytest.mark.asyncio
async def test_what_is_erased_already_is_not_said_to_be_lost() -> None:
    async with running() as world:
        await world.phone.hand_off()
        await world.within(world.phone.agent.revoke("watch", wait_s=10))
        for command in ("companion forget", "forget_phone"):
            person = Asked("no")
            with pytest.raises(PersonNeededError):
                await run(world, command, {"phone": "phone"}, person)
            assert ACCOUNT not in person.questions[0][1] and "what is left here" in person.questions[0][1]


@pytest.mark.asyncio
@pytest.mark.parametrize("yes", ["true", "yes", 1, [True], None, False])
async def test_only_true_is_a_yes_beforehand(yes: Any) -> None:
    person = Asked("no")
    with pytest.raises(PersonNeededError):
        await confirm({"yes": yes}, person, "really?")
    assert person.questions == [("confirm", "really?")]
    await confirm({"yes": True}, person, "really?")
    assert len(person.questions) == 1


@pytest.mark.asyncio
async def test_the_check_numbers_are_compared_unless_true_says_that_they_are() -> None:
    async with running(paired=False) as world:
        for yes in ("true", 1, False):
            invitation = await world.watch.agent.invitations.show()
            person = Asked("no")
            with pytest.raises(PersonNeededError, match="check number was not confirmed"):
                await run(world, "pair", {"invitation": invitation, "yes": yes}, person)
            assert [kind for kind, _ in person.questions] == ["confirm"]
            assert await world.phone.rows(Pairing) == []


# -- The questions -----------------------------------------------------------------------------------------

WATCH = replace(pairing("watch"), peer_id="a" * 26)
ANN, BOB = handoff(WATCH, account="ann@x"), handoff(WATCH, age_s=5, account="bob@x")
MINT, BRANCH = replace(ANN, strategy="mint"), replace(ANN, strategy="branch")


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (revoke_question(WATCH, [MINT, BOB]), "the grant of ann@x and that of bob@x; another handoff gives one again"),
        (revoke_question(WATCH, [MINT, BRANCH]), "one again, and you sign in for it"),
        (unpair_question(WATCH, []), "unpair watch (aaaaaa)? it must be paired again before"),
        (unpair_question(WATCH, [ANN]), "it loses the grant of ann@x; it must be paired again"),
        (forget_question(WATCH, []), "it is not told, and must be paired again"),
        (forget_question(WATCH, [replace(ANN, lease_days=3), replace(BOB, lease_days=9)]), "for up to 9 days"),
        (forget_question(WATCH, [replace(ANN, lease_days=3), replace(BOB, lease_days=0)]), "there without end;"),
        (forget_question(WATCH, [replace(ANN, account="")]), "the grant of an account without a name goes on"),
        (erase_question([grant()], [WATCH], with_pairings=True), "of ann@x and the pairing with watch (aaaaaa)? apps"),
        (erase_question([grant()], [WATCH], with_pairings=False), "of ann@x? apps get no token of it any more; to"),
        (erase_question([], [], with_pairings=True), "erase what is left here? apps"),
        (erase_question([], [], with_pairings=True), "to have one again, pair again"),
        (erase_question([], [], with_pairings=False), "to have one again, hand off again"),
    ],
)
def test_the_question_says_what_follows(question: str, said: str) -> None:
    assert said in question


def test_a_branch_costs_no_sign_in() -> None:
    said = "revoke watch (aaaaaa)? it loses the grant of ann@x; another handoff gives one again"
    assert revoke_question(WATCH, [BRANCH, BRANCH]) == said


def test_a_handoff_that_is_over_is_nothing_to_lose() -> None:
    states: tuple[Any, ...] = ("offered", "released", "done", "cancelling", "cancelled", "revoking", "gone")
    rows = [replace(ANN, state=state) for state in states]
    assert [row.state for row in live_of(rows)] == ["offered", "released", "done", "cancelling", "revoking"]


@pytest.mark.parametrize(("pending", "done"), [(True, "done: REVOKE is queued"), (False, "done: the device has con")])
def test_what_is_left_to_do_of_a_lost_device_has_its_ids_filled_in(pending: bool, done: str) -> None:
    rows = [replace(ANN, profile="auth0", subject="auth0|7", issuer="https://t.example/"), replace(BOB, profile="x")]
    steps = lost_steps(WATCH.peer_id, [*rows, *rows], pending=pending)
    assert len(steps) == 6, "each step once"
    assert steps[0].startswith(done)
    assert any(step.endswith("DELETE https://t.example/api/v2/users/auth0%7C7/refresh-tokens") for step in steps)
    assert any("of bob@x at " in step for step in steps)
    assert f"certs revoke {WATCH.peer_id} " in steps[-2]
