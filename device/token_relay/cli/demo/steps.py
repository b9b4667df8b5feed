"""The ten steps of the demo: each runs its part, checks what it promises, and returns what to show.

The table in the package has the title and the explanation of each step.

A refresh has one dangerous interval: the provider may have rotated the token, and the answer is not on our disk yet.
The sandbox holds the request before that interval begins, or the answer before it ends, so that SIGKILL comes exactly
at the chosen moment.
"""

from __future__ import annotations

import math
import re
import time
from pathlib import Path

from token_relay.cli.demo.checks import Answer, expect, expect_equal, lasting
from token_relay.cli.demo.screen import Drawing, Rows, Told
from token_relay.cli.demo.stage import GATE_OPTION, DemoAgent, Stage, grant_of, is_settled, slug_of
from token_relay.protocol.envelope import ENVELOPE_BYTES
from token_relay.protocol.identity import DEVICE_ID_CHARS
from token_relay.protocol.topics import inbox_filter

GATE = "allow_refresh_token_access"
CHECK_NUMBER = r"check number:? (\d{3} \d{3})"
ID_SHOWN = 4  # characters of a device id, enough to tell two apart
ROUNDS = 2
REAUTH_EXIT = 4
# The stored token must outlive a restart of the companion. The time of a restart is measured on this machine; this
# factor gives room above it. The provider counts whole seconds, so up to one of them is lost.
RESTARTS = 2.5
ROUNDING_S = 1


def start_everything(stage: Stage) -> Told:
    pid = stage.start_sandbox("--no-links", "--access-token-lifetime", str(stage.lifetime_s)).popen.pid
    stage.init_agents(without={GATE_OPTION})
    stage.start_agents()
    pids = (pid, *(agent.running.popen.pid for agent in stage.agents))
    expect_equal(len(set(pids)), 3, "number of processes")
    facts = stage.sandbox.facts
    return Told(
        "provider and broker run, phone and companion are connected",
        (
            f"provider {facts['http']}, broker {facts['mqtt']}",
            f"processes {pids[0]}, {pids[1]} and {pids[2]}, all of the one command token-relay",
        ),
    )


def sign_in(stage: Stage) -> Told:
    stage.sign_in("sign-in")
    stage.phone.until(
        "the phone holds a grant", lambda status: [one["state"] for one in status["accounts"]] == ["held"]
    )
    stage.sandbox.event("signed_in", after=0)
    if stage.profile == "entra":
        how = "by native authentication: a code by e-mail, no browser, no password"
    else:
        how = "in a browser: authorization code with PKCE, back on a loopback port"
    return Told(f"{stage.username} signs in on the phone", (how,))


def open_the_gate(stage: Stage) -> Told:
    refused = stage.phone("handoff", stage.companion.name).expect(5)
    expect(GATE in refused.err, f"the refusal names the setting {GATE}", refused.err)
    stage.phone.stop()
    config = stage.phone.home / "config.toml"
    closed = config.read_text()
    opened = closed.replace(f"# {GATE} = false", f"{GATE} = true")
    expect(opened != closed, f"'# {GATE} = false' stands in {config.name}", "it does not")
    config.write_text(opened)
    stage.phone.start()
    return Told(
        f"a handoff is refused with exit code 5: {GATE} is off",
        ("the application's gate is opened in config.toml and the phone restarted",),
    )


def pair(stage: Stage) -> Told:
    showing = stage.companion("pair")
    invitation = showing.find(r"^RTR1:\S+$")[0]
    accepted = stage.phone("pair", "-", "--yes", stdin=f"{invitation}\n").expect(0)
    shown = showing.expect(0)
    numbers = [re.findall(CHECK_NUMBER, ran.err) for ran in (shown, accepted)]
    expect(bool(numbers[0]), "the companion shows a check number", shown.err)
    expect_equal(numbers[1][:1], numbers[0][:1], "the phone shows the same check number")
    qr_code = "".join(line for line in shown.out.splitlines(keepends=True) if "RTR1:" not in line)
    expect(qr_code.count("\n") > 10, "the companion draws a QR code", f"{len(shown.out)} characters")
    return Told(
        f"the phone scans the companion's invitation; both show {numbers[0][0]}",
        ("the invitation is spent: it was good for one phone and ten minutes",),
        (Drawing(qr_code),),
    )


def hand_off(stage: Stage) -> Told:
    broker_mark = stage.sandbox.look("broker/messages")["last_number"]
    known = [len(agent.events()) for agent in stage.agents]
    stage.hand_off()
    stage.companion.until("the companion has refreshed once by itself", lambda status: grant_of(status)[2] == 2)
    stage.token_is_here()
    stage.phone.until("the phone has every answer", is_settled)
    stage.companion.until("the companion has every answer", lambda status: is_settled(status) and not slug_of(status))
    seen = stage.handoff_messages = stage.sandbox.look(f"broker/messages?after={broker_mark}")["messages"]
    expect(len(seen) >= 5, "OFFER, ACCEPT, TOKEN, STORED and CLOSED pass the broker", f"{len(seen)} messages")
    lengths = {message["payload_bytes"] for message in seen}
    expect(lengths <= set(ENVELOPE_BYTES), f"only lengths of {ENVELOPE_BYTES}", lengths)
    happened = [
        (f"{agent.kind}: {_spelled(row)}",)
        for agent, count in zip(stage.agents, known, strict=True)
        for row in agent.events()[count:]
    ]
    return Told(
        f"handoff ({stage.strategy}): the companion has a grant of its own on its disk",
        (
            "it refreshed at once, so the token that travelled is spent",
            ", ".join(f"{agent.device_id[:ID_SHOWN]}.. is the {agent.kind}" for agent in stage.agents),
        ),
        (
            Rows(("what the agents did",), tuple(happened)),
            Rows(
                ("what the broker saw", "bytes"),
                tuple((short_topic(message["topic"]), str(message["payload_bytes"])) for message in seen),
            ),
        ),
    )


def _spelled(row: Answer) -> str:
    """Return a row of an audit table in words."""
    detail = row.get("detail")
    return str(row["name"]).replace("_", " ") + (f" ({detail})" if detail else "")


def short_topic(topic: str) -> str:
    """Shorten the device ids in a topic, for a narrow screen."""
    return re.sub(rf"([a-z2-7]{{{ID_SHOWN}}})[a-z2-7]{{{DEVICE_ID_CHARS - ID_SHOWN}}}", r"\1..", topic)


def switch_the_phone_off(stage: Stage) -> Told:
    pid = stage.phone.running.popen.pid
    stage.phone.stop()
    stage.phone("status").expect(3)
    expect(not Path(f"/proc/{pid}").exists(), f"process {pid} is gone", "it is there")
    return Told("the phone is switched off; from here on the companion is alone", (f"process {pid} has ended",))


def refresh_on_demand(stage: Stage) -> Told:
    rows: list[tuple[str, ...]] = []
    for _ in range(ROUNDS):
        stage.wait_for_token_end()
        before = stage.generation()
        mark = stage.sandbox.mark()
        stage.prove(stage.get_token())
        after = stage.generation()
        expect_equal(after, before + 1, "generation after a refresh on demand")
        expect_equal(stage.sandbox.kinds(mark).count("refresh_committed"), 1, "refreshes at the provider")
        rows.append((f"{before} -> {after}", "200"))
    return Told(
        f"{ROUNDS} access tokens end; the companion refreshes when an app asks",
        (f"access tokens live {stage.lifetime_s} s here; the app asks on the Unix socket and shows the token",),
        (Rows(("generation", "GET /sandbox/resource"), tuple(rows)),),
    )


def cut_the_power(stage: Stage) -> Told:
    if stage.profile == "strict":
        between = _cut_between_refreshes(stage)
        inside, details = _cut_inside_without_leeway(stage)
        line = "two power cuts: alone again after (a); after (b) a person is told to act"
        return Told(line, details, (Rows(("(a) between two refreshes",), between), Rows(("(b) inside one",), inside)))
    before_commit = _cut_before_commit(stage)
    after_commit, details = _cut_after_commit(stage)
    pictures = (
        Rows(("(a) before the provider's commit",), before_commit),
        Rows(("(b) after the provider's commit",), after_commit),
    )
    return Told("two power cuts inside a refresh: the companion goes on alone after both", details, pictures)


def _cut(stage: Stage, when: str) -> int:
    """SIGKILL the companion while the provider holds its refresh; return a mark from before it."""
    mark = stage.sandbox.let_next_refresh(f"hold_{when}")
    asking = stage.companion("token", "--force-refresh")
    stage.sandbox.event("request_held", after=mark)
    state, _, _ = grant_of(stage.companion.status())
    expect_equal(state, "refreshing", "on disk before the request left: the grant is")
    stage.companion.kill()
    asking.expect(1)
    stage.sandbox.event("request_lost" if when == "before_commit" else "answer_lost", after=mark)
    return mark


def _restart(stage: Stage) -> None:
    began_at = time.monotonic()
    stage.companion.start()
    stage.restart_s = time.monotonic() - began_at


def _cut_between_refreshes(stage: Stage) -> tuple[tuple[str, ...], ...]:
    stage.wait_for_token_end()
    before, mark = stage.generation(), stage.sandbox.mark()
    stage.companion.kill()
    _restart(stage)
    stage.prove(stage.get_token())
    _serves_alone(stage, before + 1)
    _expect_no_reuse(stage, mark, "(a) no refresh token is used twice")
    return stage.happened(mark)


def _cut_before_commit(stage: Stage) -> tuple[tuple[str, ...], ...]:
    before = stage.generation()
    mark = _cut(stage, "before_commit")
    _restart(stage)
    _serves_alone(stage, before + 1)
    _expect_no_reuse(stage, mark, "(a) no refresh token is used twice")
    return stage.happened(mark)


def _expect_no_reuse(stage: Stage, mark: int, expected: str) -> None:
    kinds = stage.sandbox.kinds(mark)
    expect("reuse_detected" not in kinds, expected, kinds)


def _serves_alone(stage: Stage, generation: int) -> None:
    stage.companion.until(
        f"the companion holds generation {generation} by itself",
        lambda status: grant_of(status)[::2] == ("held", generation),
    )
    stage.prove(stage.get_token())


def _cut_after_commit(stage: Stage) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """Step (b) where the old token still works, for ever or for a while: the companion uses it again."""
    before = stage.generation()
    mark = _cut(stage, "after_commit")
    stage.companion.start()
    _serves_alone(stage, before + 1)
    committed = stage.sandbox.kinds(mark).count("refresh_committed")
    expect_equal(committed, 2, "(b) the provider commits the same refresh")
    _expect_no_reuse(stage, mark, "(b) the provider does not take that for reuse")
    why = (
        "entra: a used refresh token stays valid, so the lost answer costs nothing"
        if stage.profile == "entra"
        else "auth0: the previous token works for 30 s more, so the companion asks again at once"
    )
    return stage.happened(mark), (why, "strict would call that reuse and end everything: try --profile strict")


def _cut_inside_without_leeway(stage: Stage) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """Step (b) where reuse may end other grants: the stored access token serves to its end, then a person acts."""
    sandbox, companion = stage.sandbox, stage.companion
    lifetime_s = ROUNDING_S + math.ceil(RESTARTS * stage.restart_s)
    sandbox.control("POST", "policy", {"access_token_lifetime_s": float(lifetime_s)})
    stored = stage.get_token(force_refresh=True)
    before = stage.generation()
    mark = _cut(stage, "after_commit")
    companion.start()
    expect(stage.get_token() == stored, "(b) the stored access token is still served", "another one")
    stage.prove(stored)
    status = companion.until("(b) the grant needs a handoff", lambda status: grant_of(status)[0] == "needs_handoff")
    expect_equal(grant_of(status)[1:], ("uncertain", before), "(b) reason and generation")
    expect_equal(slug_of(status), "hand_off_again", "(b) status says what to do")
    time.sleep(max(0.0, stage.token_here_at + lifetime_s - time.monotonic()))
    refused = companion("token").expect(REAUTH_EXIT)
    expect("reauth_required" in refused.err, "(b) the app is told reauth_required", refused.err)
    _expect_no_reuse(stage, mark, "(b) nothing is tried that could end other grants")
    told = stage.happened(mark)

    sandbox.control("POST", "policy", {"access_token_lifetime_s": float(stage.lifetime_s)})
    stage.phone.start()
    stage.hand_off()
    _serves_alone(stage, 2)  # of the new grant: stored, then refreshed once at once
    companion.until("(b) a new handoff heals it", lambda status: is_settled(status) and not slug_of(status))
    stage.phone.stop()
    return told, (
        "strict: a used token is dead at once, and to use it again may end other devices' grants too",
        "the stored access token was served to its end",
        "then the app got reauth_required, and status said to hand off again",
        "the phone came back, a new handoff healed it, the phone is off again",
    )


def revoke(stage: Stage) -> Told:
    stage.phone.start()
    token = stage.get_token()  # an app holds one when the grant is taken away
    mark = stage.sandbox.mark()
    stage.phone("revoke", stage.companion.name, "--yes", "--wait", "20").expect(0)
    expect_equal(grant_of(stage.companion.status())[:2], ("dead", "revoked"), "the companion's grant is")
    code, reply = stage.companion.ask_for_token()
    expect_equal((code, reply.get("error")), (401, "reauth_required"), "the app is told")
    details = ["phone: the device has confirmed; app: reauth_required"]
    if stage.profile == "entra":
        kinds = stage.sandbox.kinds(mark)
        expect("family_killed" not in kinds, "this provider ends nothing by itself", kinds)
        details.append("this provider has no call that ends one token, only one for all sessions of a user")
    else:
        stage.sandbox.event("token_revoked", after=mark)
        wanted = "accepted by the provider"
        stage.phone.until(
            "the phone knows what the provider said", lambda status: _handed(status)["provider_revoked"] == wanted
        )
    happened = stage.happened(mark) or (("nothing; the only copy of the token is erased",),)
    if stage.profile == "strict":
        expect_equal(stage.sandbox.show_to_resource(token), 401, "the app's access token ended with its family")
        details.append("the access token that an app still holds is refused too")
    else:
        details.append("an access token that an app still holds works to its end: nobody can call it back")
    expect(_handed(stage.phone.status())["device_confirmed"] is True, "the phone shows it confirmed", "no")
    return Told(
        "the phone revokes: the companion erases its grant and confirms",
        tuple(details),
        (Rows(("what the provider did",), happened),),
    )


def _handed(status: Answer) -> Answer:
    """Return the newest handoff that the phone shows."""
    return dict(status["devices"][0]["handoffs"][-1])


def replay(stage: Stage) -> Told:
    for agent in stage.agents:
        agent.until(f"the {agent.kind} waits for nothing", is_settled)
    before = _lasting_state(stage)
    first = _replay(stage)
    _expect_unchanged(before, _lasting_state(stage), "after the replay")
    for agent in stage.agents:
        agent.stop()
    stage.start_agents()
    second = _replay(stage)
    _expect_unchanged(before, _lasting_state(stage), "after the replay that followed a restart")
    return Told(
        f"the {len(stage.handoff_messages)} recorded handoff messages come again: nothing changes",
        ("vault rows and status stay the same, also after a restart; duplicates are counted",),
        (Rows(("duplicates", "phone", "companion"), (("replay", *first), ("after a restart", *second))),),
    )


def _replay(stage: Stage) -> list[str]:
    """Replay and wait until each end has counted all of its messages; return the counts."""
    wanted: list[int] = []
    for agent in stage.agents:
        inbox = inbox_filter(agent.device_id).removesuffix("+")
        mine = sum(message["topic"].startswith(inbox) for message in stage.handoff_messages)
        expect(mine > 0, f"recorded messages to the {agent.kind}", "none")
        wanted.append(_duplicates(agent.status()) + mine)
    first, *_, last = (message["number"] for message in stage.handoff_messages)  # they follow one another
    stage.sandbox.control("POST", "broker/replay", {"after": first - 1, "until": last})
    return [_counted(agent, count) for agent, count in zip(stage.agents, wanted, strict=True)]


def _counted(agent: DemoAgent, count: int) -> str:
    what = f"the {agent.kind} counts {count} duplicates"
    return str(_duplicates(agent.until(what, lambda status: _duplicates(status) >= count)))


def _duplicates(status: Answer) -> int:
    return int(status["counters"].get("duplicate", 0))


def _lasting_state(stage: Stage) -> set[tuple[str, object]]:
    return set(lasting({agent.kind: {"vault": agent.vault_rows(), "status": agent.status()} for agent in stage.agents}))


def _expect_unchanged(before: set[tuple[str, object]], after: set[tuple[str, object]], when: str) -> None:
    changed = sorted({place for place, _ in before ^ after})
    expect(not changed, f"vault rows and status unchanged {when}", ", ".join(changed))
