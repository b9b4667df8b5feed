"""The runner: one seed is one history, a broken promise comes with what replays it, long runs go on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytest
import structlog

import token_relay.simulation.__main__ as command
from token_relay.agents.grants import lifecycle, schedule, serving
from token_relay.agents.link import Link
from token_relay.agents.phone import steps
from token_relay.agents.records import Grant
from token_relay.protocol import handoff
from token_relay.protocol.errors import VaultError
from token_relay.provider import oauth
from token_relay.provider.outcome import OutcomeUnknown, TokenOutcome
from token_relay.provider.profile import Profile
from token_relay.simulation.histories import runner
from token_relay.simulation.histories.history import History
from token_relay.simulation.histories.plan import ENDPOINTS, NAMES, Plan, make_plan
from token_relay.simulation.histories.schedule import Outcome, run_schedule
from token_relay.simulation.histories.step import Step
from token_relay.simulation.histories.tally import Failure, Progress, Tally
from token_relay.simulation.ports.http_faults import PAGES
from token_relay.simulation.promises import coverage

SEEDS = 25
log = structlog.get_logger()


def test_a_plan_is_the_same_each_time_and_all_kinds_are_met() -> None:
    plans = [make_plan(seed) for seed in range(600)]
    assert plans == [make_plan(seed) for seed in range(600)]
    assert {plan.kind for plan in plans} == set(NAMES)
    assert all(list(plan.steps) == sorted(plan.steps, key=lambda step: step.at_s) for plan in plans)
    assert {plan.phones for plan in plans} == {plan.companions for plan in plans} == {1, 2}
    faults = {kind for plan in plans for kind in plan.fault_kinds}
    assert faults >= {f"commit, then page {kind}" for kind in PAGES}
    assert faults >= {f"page {kind}, nothing committed" for kind in PAGES}
    drawn = {step.args[-1] for plan in plans for step in plan.steps if step.act == "http"}
    assert drawn == set(ENDPOINTS)


def test_the_same_seed_is_the_same_history_in_another_process_with_other_hashes() -> None:
    code = (
        "from token_relay.simulation.histories.plan import make_plan\n"
        "from token_relay.simulation.histories.schedule import run_schedule\n"
        "print(*(run_schedule(seed, has_trace=True).trace for seed in (*range(5), 128)), sep='\\n')\n"
        "print(*map(make_plan, range(300)), sep='\\n')"
    )
    histories = []
    for seed in ("0", "1"):  # under these a set of two names has another order
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            check=True,
            text=True,
        )
        histories.append(done.stdout.splitlines()[-306:])  # before these come log lines, with the time of day
    assert histories[0] == histories[1]
    assert len(set(histories[0])) == 306


def test_a_chunk_holds_every_promise_and_counts_what_happened() -> None:
    tally = runner.run_chunk(0, SEEDS, "fast")
    assert tally.failures == []
    assert tally.schedules == SEEDS
    assert tally.counted > SEEDS // 2
    # 11 needs a program of another uid, 12 a lease that is renewed, 2 a provider that notices
    assert {1, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14} <= set(tally.checks)
    assert tally.reached["phone", "released", "stored"] > 0


@pytest.mark.parametrize(
    ("fault", "becomes"),
    [("lost_after", "needs_handoff uncertain generation 2"), ("502", "uncertain  generation 2")],
    ids=["lost", "page"],
)
def test_what_is_no_verdict_breaks_no_promise(fault: str, becomes: str) -> None:
    """A few drawn plans may bring neither: an answer to a companion's refresh that is lost, or is a gateway's page."""
    steps = (
        Step(10.0, "hand_off", "phone", ("watch", "mint")),
        Step(100.0, "http", "watch", (fault, 1, 0, 0.0, 0, "token"), is_fault=True),
        Step(100.1, "token", "watch", ("force", 0)),
        Step(300.0, "token", "watch", ("force", 0)),
    )
    plan = Plan(0, "strict", 1, 1, 0, has_latency=False, pairs_live=False, settles_long=False, steps=steps)
    history = History()
    with runner.quiet():
        assert run_schedule(0, plan=plan, history=history).problem == ""
    assert any("watch " in line and becomes in line for line in history.lines)


def take_back_when_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A phone that takes a moved token back when the person cancels, instead of asking the companion."""
    honest = handoff.phone_step

    def step(state: handoff.PhoneState, event: handoff.PhoneEvent) -> handoff.PhoneStep:
        if event == "cancel" and isinstance(state, handoff.Released):
            fx = handoff.PhoneEffect
            return handoff.PhoneStep(handoff.Cancelled(), (fx.SETTLE, fx.RETURN_TOKEN))
        return honest(state, event)

    monkeypatch.setattr(steps, "phone_step", step)


def acknowledge_what_the_disk_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that lets PUBACK go although nothing of the message was kept."""
    honest = Link.receive

    async def receive(self: Link, topic: str, payload: bytes) -> None:
        with suppress(VaultError):
            await honest(self, topic, payload)

    monkeypatch.setattr(Link, "receive", receive)


def erase_after_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that takes a gateway's page for the provider's word."""
    honest = lifecycle.settle_refresh

    def settle(state: lifecycle.Refreshing, outcome: TokenOutcome, profile: Profile) -> lifecycle.GrantState:
        if isinstance(outcome, OutcomeUnknown) and outcome.came == "page":
            return lifecycle.Erased(state.generation, "denied")
        return honest(state, outcome, profile)

    monkeypatch.setattr(lifecycle, "settle_refresh", settle)


def erase_what_is_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that does not keep what it may not send again."""
    honest = lifecycle.keeps_refresh_token

    def keeps(state: lifecycle.GrantState) -> bool:
        return honest(state) and not isinstance(state, lifecycle.NeedsHandoff)

    monkeypatch.setattr(serving, "keeps_refresh_token", keeps)


def send_again_whoever_else_holds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that repairs its own grant at the risk of the others'."""
    honest = lifecycle.begin_refresh

    def begin(*args: Any, **known: Any) -> Any:
        return honest(*args, **{**known, "holds_alone": True})

    monkeypatch.setattr(lifecycle, "begin_refresh", begin)


def never_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that waits for a restart once the provider has refused it."""
    honest = schedule.due_in_s

    def due(grant: Grant, *args: Any, **named: Any) -> float | None:
        return honest(grant, *args, **named) if grant.state not in ("locked", "needs_handoff") else None

    monkeypatch.setattr(schedule, "due_in_s", due)


def log_the_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that logs what it sends."""
    honest = oauth.refresh

    async def refresh(http: Any, profile: Any, **fields: Any) -> Any:
        log.debug("refreshing", form=fields["refresh_token"].reveal())
        return await honest(http, profile, **fields)

    monkeypatch.setattr(oauth, "refresh", refresh)


def test_a_token_in_the_log_is_found_where_cryptography_is_real(monkeypatch: pytest.MonkeyPatch) -> None:
    log_the_form(monkeypatch)
    with runner.quiet():
        assert run_schedule(0, tier="memory").promise == 9


@pytest.mark.parametrize(
    ("break_it", "promise", "start"),
    [
        (take_back_when_time_passes, 1, 1200),  # the person must cancel in the second in which the token is under way
        (send_again_whoever_else_holds_one, 2, 0),
        (never_ask_again, 5, 0),
        (acknowledge_what_the_disk_refused, 8, 0),
        (erase_after_a_page, 16, 0),
        (erase_what_is_sealed, 16, 0),
    ],
)
def test_a_broken_agent_is_found_and_can_be_replayed(
    break_it: Any, promise: int, start: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it(monkeypatch)
    with runner.quiet():
        seeds = range(start, start + 600)
        found = next(outcome for seed in seeds if (outcome := run_schedule(seed)).promise == promise)
    assert command.main(["--seed", str(found.seed)]) == 1
    shown = capsys.readouterr().out
    assert f"promise {promise} " in shown
    assert f"python -m token_relay.simulation --seed {found.seed} --tier fast --show" in shown


def test_one_seed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--seed", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problem"] == ""
    assert any("POWER CUT" in line or "calm" in line for line in found["history"])


def test_a_run_goes_on_where_its_file_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[int, int]] = []

    def chunk(first: int, count: int, tier: str) -> Tally:
        ran.append((first, count))
        return Tally(schedules=count, reached=Counter({("phone", "new", "offer"): count}))

    monkeypatch.setattr(runner, "run_chunk", chunk)
    file = tmp_path / "long.json"
    runner.run_many(start=7, count=100, tier="fast", jobs=1, file=file, told=lambda done: None)
    ran.clear()
    tally = runner.run_many(start=7, count=250, tier="fast", jobs=1, file=file, told=lambda done: None)
    assert ran == [(107, 100), (207, 50)]
    assert tally.schedules == 250
    assert tally.reached["phone", "new", "offer"] == 250
    assert Progress.read(file).done == 250


def test_a_tally_survives_its_file(tmp_path: Path) -> None:
    tally = runner.run_chunk(0, 2, "fast")
    tally.fail(Failure(1, 3, "planted"))
    Progress("fast", 0, 2, 2, tally).write(tmp_path / "p.json")
    assert Progress.read(tmp_path / "p.json").tally.as_json() == tally.as_json()


def test_a_pair_that_is_never_reached_is_named() -> None:
    reached = Counter(dict.fromkeys(coverage.every_pair() - set(coverage.UNREACHABLE), 1))
    assert coverage.missing(reached) == []
    del reached["phone", "released", "stored"]
    assert coverage.missing(reached) == [("phone", "released", "stored")]
    assert set(coverage.UNREACHABLE) | set(coverage.RARE) <= coverage.every_pair()
    assert not set(coverage.UNREACHABLE) & set(coverage.RARE)
    assert all({**coverage.UNREACHABLE, **coverage.RARE}.values())


def test_what_is_said_to_be_illegal_is_what_raises() -> None:
    states: list[handoff.PhoneState] = [kind() for kind in get_args(handoff.PhoneState) if kind is not handoff.Gone]
    states += [handoff.Offered(is_accepted=True), *map(handoff.Gone, get_args(handoff.GoneReason))]
    companions: list[handoff.CompanionState] = [handoff.NoHandoff(), handoff.Ready(), handoff.HandoffStored()]
    companions += map(handoff.Dead, get_args(handoff.DeadReason))
    legal = {
        ("phone", coverage.phone_name(state), event)
        for state in states
        for event in get_args(handoff.PhoneOwnEvent)
        if handoff.phone_may(state, event)
    } | {
        ("companion", coverage.companion_name(state), event)
        for state in companions
        for event in get_args(handoff.CompanionOwnEvent)
        if handoff.companion_may(state, event)
    }
    own = {("phone", event) for event in get_args(handoff.PhoneOwnEvent)}
    own |= {("companion", event) for event in get_args(handoff.CompanionOwnEvent)}
    assert set(coverage.ILLEGAL) == {pair for pair in coverage.every_pair() if (pair[0], pair[2]) in own} - legal


def test_a_seed_that_fails_is_told_before_the_next_one_runs(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    told_before: list[str] = []

    def schedule(seed: int, **_: Any) -> Outcome:
        told_before.append(capfd.readouterr().err)
        return Outcome(seed, "strict", "promise 2 is broken: twice\nmore" if seed == 1 else "")

    monkeypatch.setattr(runner, "run_schedule", schedule)
    assert runner.run_chunk(0, 4, "real").failed == 1
    replay = "replay: python -m token_relay.simulation --seed 1 --tier real --show"
    assert told_before[-2] == f"seed 1: promise 2 is broken: twice\n  {replay}\n"
    assert "".join(told_before).count("seed 1:") == 1


def test_an_interrupt_reports_what_was_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def chunk(first: int, count: int, tier: str) -> Tally:
        if first >= 200:
            raise KeyboardInterrupt
        return Tally(schedules=count, failed=1, failures=[Failure(first, 2, "promise 2 is broken")])

    monkeypatch.setattr(runner, "run_chunk", chunk)
    assert command.main(["--count", "1000", "--jobs", "1", "--cover"]) == command.INTERRUPTED
    said = capsys.readouterr().out
    assert said.startswith("fast tier: 200 schedules in ")
    assert "broken promises: 2" in said and "--seed 100 " in said
