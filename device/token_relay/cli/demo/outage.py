"""Steps 7 and 8: the companion alone, then the power cut at the two worst moments.

A refresh has one dangerous interval: the provider may have rotated the token, and the answer is not on our disk yet.
The sandbox holds the request before that interval begins, or the answer before it ends, so SIGKILL falls where the
story wants it and not where luck has it.
"""

from __future__ import annotations

import math

from token_relay.cli.demo.checks import expect, expect_equal
from token_relay.cli.demo.screen import Rows, Told
from token_relay.cli.demo.stage import Stage

ROUNDS = 2
REAUTH_EXIT = 4
# The stored token must outlive a restart of the companion, whose time was measured on this machine under this load;
# that much room, and the provider counts whole seconds, so up to one of them is lost.
RESTARTS = 2.5
ROUNDING_S = 1


def refresh_on_demand(stage: Stage) -> Told:
    """Step 7."""
    rows: list[tuple[str, ...]] = []
    for _ in range(ROUNDS):
        stage.wait_for_token_end()
        before = stage.generation()
        mark = stage.sandbox.mark()
        stage.prove(stage.get_token())
        after = stage.generation()
        expect_equal(after, before + 1, "generation after a refresh on demand")
        kinds = [event.kind for event in stage.sandbox.events(mark).events]
        expect_equal(kinds.count("refresh_committed"), 1, "refreshes at the provider")
        rows.append((f"{before} -> {after}", "200"))
    return Told(
        f"{ROUNDS} access tokens end; the companion refreshes when an app asks",
        (f"access tokens live {stage.lifetime_s} s here; the app asks on the Unix socket and shows the token",),
        (Rows(("generation", "GET /sandbox/resource"), tuple(rows)),),
    )


def cut_the_power(stage: Stage) -> Told:
    """Step 8."""
    before_commit = _cut_before_commit(stage)
    if stage.profile == "strict":
        after_commit, details = _cut_after_commit_without_leeway(stage)
    else:
        after_commit, details = _cut_after_commit(stage)
    if stage.profile == "strict":
        line = "two power cuts: alone again after (a); after (b) a person is told to act"
    else:
        line = "two power cuts inside a refresh: the companion goes on alone after both"
    return Told(
        line,
        details,
        (
            Rows(("(a) before the provider's commit",), before_commit),
            Rows(("(b) after the provider's commit",), after_commit),
        ),
    )


def _cut(stage: Stage, when: str) -> int:
    """SIGKILL the companion while the provider holds its refresh; returns a mark from before it."""
    mark = stage.sandbox.hold_next_refresh(when)
    asking = stage.companion.begin("token", "--force-refresh")
    stage.sandbox.event("request_held", after=mark)
    expect_equal(stage.companion.status().grant.state, "refreshing", "on disk before the request left: the grant is")
    stage.companion.kill()
    asking.finish().expect(1)
    stage.sandbox.event("request_lost" if when == "before_commit" else "answer_lost", after=mark)
    return mark


def _cut_before_commit(stage: Stage) -> tuple[tuple[str, ...], ...]:
    before = stage.generation()
    mark = _cut(stage, "before_commit")
    stage.restart_s = stage.companion.start()
    _serves_alone(stage, before + 1)
    kinds = [event.kind for event in stage.sandbox.events(mark).events]
    expect("reuse_detected" not in kinds, "(a) no refresh token is used twice", kinds)
    return stage.tell_events(list(stage.sandbox.events(mark).events))


def _serves_alone(stage: Stage, generation: int) -> None:
    stage.companion.until(
        f"the companion holds generation {generation} by itself",
        lambda status: (status.grant.state, status.grant.generation) == ("held", generation),
    )
    stage.prove(stage.get_token())


def _cut_after_commit(stage: Stage) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """(b) where the old token still works, for ever or for a while: it is simply used again."""
    before = stage.generation()
    mark = _cut(stage, "after_commit")
    stage.companion.start()
    _serves_alone(stage, before + 1)
    events = list(stage.sandbox.events(mark).events)
    kinds = [event.kind for event in events]
    expect_equal(kinds.count("refresh_committed"), 2, "(b) the provider commits the same refresh")
    expect("reuse_detected" not in kinds, "(b) the provider does not take that for reuse", kinds)
    why = (
        "entra: a used refresh token stays valid, so the lost answer costs nothing"
        if stage.profile == "entra"
        else "auth0: the previous token works for 30 s more, so the companion asks again at once"
    )
    return stage.tell_events(events), (why, "strict would call that reuse and end everything: try --profile strict")


def _cut_after_commit_without_leeway(stage: Stage) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """(b) where a used token is dead and its reuse kills: what is stored serves to its end, then a person acts."""
    sandbox, companion = stage.sandbox, stage.companion
    lifetime_s = ROUNDING_S + math.ceil(RESTARTS * stage.restart_s)
    sandbox.set_access_token_lifetime(lifetime_s)
    stored = stage.get_token(force_refresh=True)
    before = stage.generation()
    mark = _cut(stage, "after_commit")
    companion.start()
    expect(stage.get_token() == stored, "(b) the stored access token is still served", "another one")
    stage.prove(stored)
    kinds = [event.kind for event in sandbox.events(mark).events]
    expect("reuse_detected" not in kinds, "(b) nothing is tried while the stored token lives", kinds)

    sandbox.event("reuse_detected", after=mark)  # the one further attempt, after the stored token's end
    status = companion.until("(b) the grant needs a handoff", lambda status: status.grant.state == "needs_handoff")
    expect_equal((status.grant.reason, status.grant.generation), ("uncertain", before), "(b) reason and generation")
    expect_equal(status.slug, "hand_off_again", "(b) status says what to do")
    refused = companion("token").expect(REAUTH_EXIT)
    expect("reauth_required" in refused.err, "(b) the app is told reauth_required", refused.err)
    told = stage.tell_events(list(sandbox.events(mark).events))

    sandbox.set_access_token_lifetime(stage.lifetime_s)
    stage.phone.start()
    stage.hand_off()
    _serves_alone(stage, 2)  # of the new grant: stored, then refreshed once at once
    companion.until("(b) a new handoff heals it", lambda status: status.is_settled and not status.slug)
    stage.phone.stop()
    return told, (
        "strict: a used token is dead at once, and only the lost answer held the next one",
        "the stored access token was served to its end",
        "then the app got reauth_required, and status said to hand off again",
        "the phone came back, a new handoff healed it, the phone is off again",
    )
