"""Steps 1 to 6: everything is started, the person signs in, the devices pair, the grant is handed over."""

from __future__ import annotations

import re
from pathlib import Path

from token_relay.cli.demo.checks import expect, expect_equal
from token_relay.cli.demo.screen import Drawing, Rows, Told
from token_relay.cli.demo.stage import Stage
from token_relay.cli.demo.views import AuditRow
from token_relay.protocol.envelope import ENVELOPE_BYTES
from token_relay.protocol.identity import DEVICE_ID_CHARS

GATE = "allow_refresh_token_access"
CHECK_NUMBER = r"check number: (\d{3} \d{3})"
ID_SHOWN = 4  # characters of a device id, enough to tell two apart


def start_everything(stage: Stage) -> Told:
    """Step 1."""
    pid = stage.start_sandbox()
    stage.init_agents()
    for agent in (stage.phone, stage.companion):
        agent.spawn()
    for agent in (stage.phone, stage.companion):
        agent.until_connected()
    pids = (pid, stage.phone.running.pid, stage.companion.running.pid)
    expect_equal(len(set(pids)), 3, "number of processes")
    facts = stage.sandbox.facts
    return Told(
        "provider and broker run, phone and companion are connected",
        (
            f"provider {facts.http}, broker {facts.mqtt}",
            f"processes {pids[0]}, {pids[1]} and {pids[2]}, all of the one command token-relay",
        ),
    )


def sign_in(stage: Stage) -> Told:
    """Step 2."""
    stage.sign_in("sign-in")
    stage.phone.until("the phone holds a grant", lambda status: [one.state for one in status.accounts] == ["held"])
    stage.sandbox.event("signed_in", after=0)
    if stage.profile == "entra":
        user = stage.sandbox.otp_user.username
        how = "by native authentication: a code by e-mail, no browser, no password"
    else:
        user = stage.sandbox.password_user.username
        how = "in a browser: authorization code with PKCE, back on a loopback port"
    return Told(f"{user} signs in on the phone", (how,))


def open_the_gate(stage: Stage) -> Told:
    """Step 3."""
    refused = stage.phone("handoff", stage.companion.name).expect(5)
    expect(GATE in refused.err, f"the refusal names the setting {GATE}", refused.err)
    stage.phone.stop()
    stage.phone.edit_config(f"# {GATE} = false", f"{GATE} = true")
    stage.phone.start()
    return Told(
        f"a handoff is refused with exit code 5: {GATE} is off",
        ("the application's gate is opened in config.toml and the phone restarted",),
    )


def pair(stage: Stage) -> Told:
    """Step 4."""
    showing = stage.companion.begin("pair")
    invitation = showing.find(r"^RTR1:\S+$")[0]
    accepted = stage.phone("pair", "-", "--yes", stdin=f"{invitation}\n").expect(0)
    shown = showing.finish().expect(0)
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
    """Step 5."""
    broker_mark = stage.sandbox.broker_mark()
    marks = (stage.phone.event_mark(), stage.companion.event_mark())
    stage.hand_off()
    stage.companion.until("the companion has refreshed once by itself", lambda status: status.grant.generation == 2)
    stage.token_is_here()
    stage.phone.until("the phone has every answer", lambda status: status.is_settled)
    stage.companion.until("the companion has every answer", lambda status: status.is_settled and not status.slug)
    stage.handoff_messages = stage.sandbox.broker_messages(broker_mark)
    seen = stage.handoff_messages
    expect(len(seen) >= 5, "OFFER, ACCEPT, TOKEN, STORED and CLOSED pass the broker", f"{len(seen)} messages")
    lengths = {message.payload_bytes for message in seen}
    expect(lengths <= set(ENVELOPE_BYTES), f"only lengths of {ENVELOPE_BYTES}", lengths)
    names = {stage.phone.device_id: "phone", stage.companion.device_id: "companion"}
    happened = [(f"phone: {event_text(row)}",) for row in stage.phone.events(marks[0])]
    happened += [(f"companion: {event_text(row)}",) for row in stage.companion.events(marks[1])]
    return Told(
        f"handoff ({stage.strategy}): the companion has a grant of its own on its disk",
        ("it refreshed at once, so the token that travelled is spent", _ids(names)),
        (
            Rows(("what the agents did",), tuple(happened)),
            Rows(
                ("what the broker saw", "bytes"),
                tuple((short_topic(message.topic), str(message.payload_bytes)) for message in seen),
            ),
        ),
    )


def event_text(row: AuditRow) -> str:
    """Spell a row of an audit table in words."""
    return row.name.replace("_", " ") + (f" ({row.detail})" if row.detail else "")


def short_topic(topic: str) -> str:
    """Shorten the device ids in a topic, for a narrow screen."""
    return re.sub(rf"([a-z2-7]{{{ID_SHOWN}}})[a-z2-7]{{{DEVICE_ID_CHARS - ID_SHOWN}}}", r"\1..", topic)


def _ids(names: dict[str, str]) -> str:
    return ", ".join(f"{device_id[:ID_SHOWN]}.. is the {name}" for device_id, name in names.items())


def switch_the_phone_off(stage: Stage) -> Told:
    """Step 6."""
    pid = stage.phone.running.pid
    stage.phone.stop()
    stage.phone("status").expect(3)
    expect(not Path(f"/proc/{pid}").exists(), f"process {pid} is gone", "it is there")
    return Told("the phone is switched off; from here on the companion is alone", (f"process {pid} has ended",))
