"""Steps 9 and 10: the person takes the grant away, and recorded traffic brings nothing back."""

from __future__ import annotations

from functools import partial

from token_relay.cli.demo.checks import Json, differences, expect, expect_equal, lasting
from token_relay.cli.demo.screen import Rows, Told
from token_relay.cli.demo.stage import Stage
from token_relay.cli.demo.views import AgentStatus
from token_relay.protocol.topics import inbox_filter


def revoke(stage: Stage) -> Told:
    """Step 9."""
    stage.phone.start()
    token = stage.get_token()  # an app holds one when the grant is taken away
    mark = stage.sandbox.mark()
    stage.phone("revoke", stage.companion.name, "--wait", "20").expect(0)
    status = stage.companion.status()
    expect_equal((status.grant.state, status.grant.reason), ("dead", "revoked"), "the companion's grant is")
    code, reply = stage.companion.ask_for_token()
    expect_equal((code, reply.error), (401, "reauth_required"), "the app is told")
    details = ["phone: the device has confirmed; app: reauth_required"]
    if stage.profile == "entra":
        kinds = [event.kind for event in stage.sandbox.events(mark).events]
        expect("family_killed" not in kinds, "this provider ends nothing by itself", kinds)
        details.append("this provider has no call that ends one token, only one for all sessions of a user")
        happened = stage.tell_events(list(stage.sandbox.events(mark).events)) or (
            ("nothing; the only copy of the token is erased",),
        )
    else:
        stage.sandbox.event("token_revoked", after=mark)
        wanted = "accepted by the provider"
        stage.phone.until(
            "the phone knows what the provider said",
            lambda status: status.devices[0].handoffs[-1].provider_revoked == wanted,
        )
        happened = stage.tell_events(list(stage.sandbox.events(mark).events))
    if stage.profile == "strict":
        expect_equal(stage.sandbox.show_to_resource(token), 401, "the access token that is out ended with its family")
        details.append("the access token that an app still holds is refused too")
    else:
        details.append("an access token that an app still holds works to its end: nobody can call it back")
    expect(stage.phone.status().devices[0].handoffs[-1].device_confirmed is True, "the phone shows it confirmed", "no")
    return Told(
        "the phone revokes: the companion erases its grant and confirms",
        tuple(details),
        (Rows(("what the provider did",), happened),),
    )


def replay(stage: Stage) -> Told:
    """Step 10."""
    agents = (stage.phone, stage.companion)
    for agent in agents:
        agent.until(f"the {agent.kind} waits for nothing", lambda status: status.is_settled)
    before = _lasting_state(stage)
    first = _replay(stage)
    _expect_unchanged(before, _lasting_state(stage), "after the replay")
    for agent in agents:
        agent.stop()
    for agent in agents:
        agent.spawn()
    for agent in agents:
        agent.until_connected()
    second = _replay(stage)
    _expect_unchanged(before, _lasting_state(stage), "after the replay that followed a restart")
    return Told(
        f"the {len(stage.handoff_messages)} recorded handoff messages come again: nothing changes",
        ("vault rows and status stay the same, also after a restart; duplicates are counted",),
        (Rows(("duplicates", "phone", "companion"), (("replay", *first), ("after a restart", *second))),),
    )


def _replay(stage: Stage) -> tuple[str, str]:
    """Replay and wait until each end has counted all of its messages; returns the counts."""
    shown: list[str] = []
    wanted: list[int] = []
    agents = (stage.phone, stage.companion)
    for agent in agents:
        inbox = inbox_filter(agent.device_id).removesuffix("+")
        mine = sum(message.topic.startswith(inbox) for message in stage.handoff_messages)
        expect(mine > 0, f"recorded messages to the {agent.kind}", "none")
        wanted.append(agent.status().counters.get("duplicate", 0) + mine)
    stage.sandbox.replay(stage.handoff_messages)
    for agent, count in zip(agents, wanted, strict=True):
        status = agent.until(f"the {agent.kind} counts {count} duplicates", partial(_has_counted, count=count))
        shown.append(str(status.counters["duplicate"]))
    return shown[0], shown[1]


def _has_counted(status: AgentStatus, *, count: int) -> bool:
    return status.counters.get("duplicate", 0) >= count


def _lasting_state(stage: Stage) -> Json:
    return {
        agent.kind: {"vault": agent.vault_rows(), "status": lasting(agent.raw_status())}
        for agent in (stage.phone, stage.companion)
    }


def _expect_unchanged(before: Json, after: Json, when: str) -> None:
    changed = list(differences(before, after))
    expect(not changed, f"vault rows and status unchanged {when}", ", ".join(changed))
