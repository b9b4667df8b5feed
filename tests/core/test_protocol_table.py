"""docs/spec/protocol.json says what the program does, and the program does what it says: no more, no less.

Each comparison is a function of the table, so that a test can plant a wrong cell and see it found.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from tests.core.protocol_table import make_spec, table
from token_relay.agents import link
from token_relay.agents.companion import invitations
from token_relay.agents.companion import steps as companion_steps
from token_relay.agents.grants import lease
from token_relay.agents.phone import devices, renewals
from token_relay.agents.phone import pairing as phone_pairing
from token_relay.agents.phone import steps as phone_steps
from token_relay.agents.phone.account import _granted
from token_relay.agents.phone.renewals import renewal_refusal
from token_relay.agents.records import Pairing, PhoneHandoff
from token_relay.protocol import delivery, envelope, handoff, messages, pairing
from token_relay.protocol.behaviour import Behaviour
from token_relay.protocol.errors import LocalProtocolError
from token_relay.protocol.handoff import CompanionState, PhoneState
from token_relay.protocol.wire_json import INTEGER_MAX
from token_relay.provider import oauth
from token_relay.provider.profile import PROFILES

ROOT = Path(__file__).parents[2]
Table = dict[str, Any]


def test_pages_diagrams_and_schema_are_made_from_the_table() -> None:
    for path, text in make_spec.made(table()).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run: make protocol"


# -- Messages ----------------------------------------------------------------------------------------------


def _shape(schema: Mapping[str, Any], defs: Mapping[str, Any], *, integer_max: int) -> dict[str, Any]:
    """Return a JSON Schema in one spelling: references followed, names of people's interest left away.

    A number of a message is any integer to a model; that it must not be above 2^52 is a test of its own.
    """
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _shape(defs[name], defs, integer_max=integer_max)
    shape: dict[str, Any] = {}
    for key, value in schema.items():
        match key:
            case "title" | "description" | "default" | "$defs":
                continue
            case "const":
                shape["enum"] = [value]
            case "pattern":
                shape[key] = re.sub(r"\\z|\$$", "$", value)
            case "maximum":
                shape[key] = integer_max if value == messages.SEQUENCE_MAX else value
            case "required":
                shape[key] = sorted(value)
            case "properties":
                shape[key] = {name: _shape(of, defs, integer_max=integer_max) for name, of in value.items()}
            case "items":
                shape[key] = _shape(value, defs, integer_max=integer_max)
            case "anyOf":
                shape[key] = [_shape(of, defs, integer_max=integer_max) for of in value]
            case _:
                shape[key] = value
    return shape


def _said(table: Table, name: str) -> dict[str, Any]:
    schema = make_spec.schema(table)
    return _shape(schema["$defs"][name], schema["$defs"], integer_max=INTEGER_MAX)


def _done(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(by_alias=True)
    return _shape(schema, schema.get("$defs", {}), integer_max=INTEGER_MAX)


def wrong_messages(table: Table) -> list[str]:
    """Return what the models and the table say differently of fields, types, limits, versions and directions."""
    found = []
    said = {(kind, row["v"]) for kind, message in table["messages"].items() for row in message["versions"]}
    found += [f"{kind} {v}: only in one" for kind, v in said ^ set(messages.BODIES)]
    for kind, v in said & set(messages.BODIES):
        if _said(table, f"{kind}_{v}")["properties"]["body"] != _done(messages.BODIES[kind, v]):
            found.append(f"{kind} {v}")
    for kind, message in table["messages"].items():
        if (message["kind"] == "request") != (kind in messages.REQUESTS):
            found.append(f"{kind}: kind")
    head = make_spec._object([row for row in table["head"] if row["name"] != "body"], table, {})
    if _shape(head, make_spec.schema(table)["$defs"], integer_max=INTEGER_MAX) != _done(messages.Head):
        found.append("head")
    others: dict[str, type[BaseModel]] = {
        "grant_1": messages.GrantPayload, "grant_2": messages.GrantPayload2, "behaviour": Behaviour,
        "PAIR1_fields": pairing.Pair1Fields, "PAIR2_fields": pairing.Pair2Fields,
    }  # fmt: skip
    found += [name for name, model in others.items() if _said(table, name) != _done(model)]
    if (table["speaks"], table["grant_version"]) != (messages.SPEAKS, messages.GRANT_VERSION):
        found.append("versions")
    return found


def test_the_table_names_every_profile() -> None:
    (profile,) = (row for row in table()["grant"]["versions"][0]["fields"] if row["name"] == "profile")
    assert re.findall(r"`([a-z0-9-]+)`", profile["meaning"].partition(" An unknown")[0]) == list(PROFILES)


def test_the_models_have_the_fields_types_and_limits_of_the_table() -> None:
    assert wrong_messages(table()) == []


def _fields(table: Table) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Yield each field of the table, by its list and place."""
    lists = [row["fields"] for message in table["messages"].values() for row in message["versions"]]
    lists += [fields for message in table["messages"].values() for fields in message.get("each", {}).values()]
    lists += [[row for row in table["head"] if row["name"] != "body"]]
    lists += [row["fields"] for row in table["grant"]["versions"]]
    lists += [table["grant"]["behaviour"], table["pair1"]]
    for fields in lists:
        for at in range(len(fields)):
            yield fields, at


NAMED = {"v", "is_sole", "speaks", "behaviour", "body"}  # the table itself names these a second time
PLANTED: dict[str, Callable[[dict[str, Any]], None]] = {
    "another name": lambda field: field.update(name=field["name"] + "_x"),
    "null": lambda field: field.pop("null") if field.get("null") else field.update(null=True),
    "another type": lambda field: field.update(type="boolean" if field.get("type") == "hex16" else "hex16"),
    "another limit": lambda field: field.update(max=(field.get("max") or 7) + 1),
}  # fmt: skip


@pytest.mark.parametrize("plant", PLANTED)
def test_one_wrong_field_in_the_table_is_seen(plant: str) -> None:
    planted = 0
    for at in range(sum(1 for _ in _fields(table()))):
        changed = table()
        fields, place = next(itertools.islice(_fields(changed), at, None))
        field = fields[place]
        if plant == "another limit" and not (
            {"integer", "text", "string"} & {field.get("type")} or "array_of" in field
        ):
            continue
        if plant == "another type":
            for key in ("one_of", "array_of", "min", "max", "pattern"):
                field.pop(key, None)
        if plant == "another name" and (field["name"] in NAMED or field.get("array_of") == "each"):
            continue
        PLANTED[plant](field)
        planted += 1
        assert wrong_messages(changed) != [], (plant, field)
    assert planted > 15


@pytest.mark.parametrize("kind", [kind for kind, message in table()["messages"].items()])
def test_a_number_of_a_peer_is_at_most_2_to_the_52(kind: str) -> None:
    sequences = [row["name"] for row in table()["head"] if row["type"] == "sequence"]
    assert sequences == ["seq"]
    assert table()["limits"]["sequence"] == messages.SEQUENCE_MAX
    inside = {
        row["name"] for row in table()["messages"][kind]["versions"][0]["fields"] if row.get("type") == "sequence"
    }
    assert inside == ({"seq_sent", "seq_accepted"} if kind in ("HELLO", "ROLLBACK") else set())


def test_words_that_a_provider_grants_without_saying_so_are_put_back() -> None:
    words = ["openid", "profile", "email", "offline_access", "api.read"]
    for profile in PROFILES:
        tacit = table()["grant"]["tacit_scope"].get(profile, [])
        assert set(_granted("api.write", " ".join(words), profile).split()) == {"api.write", *tacit}


# -- Reasons -----------------------------------------------------------------------------------------------

ROOMS = (
    *(ROOT / "relay/token_relay/protocol").glob("*.py"),
    *(ROOT / "device/token_relay/agents").glob("*.py"),
    *(ROOT / "device/token_relay/agents/phone").glob("*.py"),
    *(ROOT / "device/token_relay/agents/companion").glob("*.py"),
)
OURS = {"internal_error"}  # a bug of this program, no fault of the peer's
COUNTERS = {"PeerError", "count_reject"}  # what takes a reason as its first argument


def _reasons_in(source: str) -> set[str]:
    """Return the reasons for which a module refuses messages: what it names where it raises or counts."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        calls = []
        if isinstance(node, ast.ClassDef) and "PeerError" in {getattr(base, "id", "") for base in node.bases}:
            inner = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
            calls = [call for call in inner if getattr(call.func, "attr", "") == "__init__"]
        elif isinstance(node, ast.Call) and COUNTERS & {getattr(node.func, "id", ""), getattr(node.func, "attr", "")}:
            calls = [node]
        parts = [part for call in calls for argument in call.args[:1] for part in ast.walk(argument)]
        found |= {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    return {reason for reason in found if re.fullmatch(r"[a-z][a-z0-9_]+", reason)}


def wrong_reasons(table: Table, sources: Mapping[Path, str]) -> set[str]:
    """Return the reasons that only the table or only the program has."""
    done = {reason for source in sources.values() for reason in _reasons_in(source)} - OURS
    return set(make_spec.reasons(table)) ^ done


def test_the_table_has_every_reason_that_the_program_counts_and_no_other() -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in ROOMS}
    assert wrong_reasons(table(), sources) == set()
    changed = table()
    changed["content_reasons"].pop(0)
    assert wrong_reasons(changed, sources) == {"offer_changed"}
    assert wrong_reasons(table(), {**sources, Path("x"): 'raise PeerError("new_reason")'}) == {"new_reason"}


# -- Limits and times --------------------------------------------------------------------------------------


def program_limits() -> dict[str, Any]:
    """Return the limits of the program by the table's names."""
    return {
        "envelope_bytes": list(envelope.ENVELOPE_BYTES),
        "pair_bytes": pairing.PAIR_BYTES,
        "plaintext_bytes": envelope.PLAINTEXT_BYTES_MAX,
        "pair_plaintext_bytes": envelope.PADDED_BYTES[0] - 1,
        "ended_bytes": pairing.ENDING_BYTES,
        "sealed_chars": messages.SEALED_CHARS_MAX,
        "grant_bytes": messages.SEALED_CHARS_MAX * 3 // 4 - envelope.SEALED_OVERHEAD_BYTES,
        "integer": INTEGER_MAX,
        "sequence": messages.SEQUENCE_MAX,
        "handoffs_listed": messages.HANDOFFS_LISTED_MAX,
        "strategies_listed": messages.STRATEGIES_NAMED_MAX,
        "replay_window": delivery.WINDOW,
        "rollback_jump": link.ROLLBACK_JUMP,
        "open_requests": delivery.OUTBOX_ROWS_MAX,
        "handoffs_remembered": companion_steps.HANDOFFS_MAX,
        "unknown_handoffs": phone_steps.UNKNOWN_MAX,
        "accept_hashes": companion_steps.ACCEPTS_KEPT,
        "renewals": renewals.RENEWALS_MAX,
        "lease_days": 365,  # a field's limit, compared above
        "invitation_chars": pairing.INVITATION_CHARS_MAX,
        "invitation_paste_chars": pairing.PASTED_CHARS_MAX,
        "broker_address_bytes": pairing.HINT_BYTES_MAX,
        "bad_tries": pairing.INVITATION_BAD_TRIES_MAX,
        "ended_invitations": invitations.ENDED_MAX,
        "ended_messages": invitations.LOOKS_MAX,
        "requests_at_once": link.REQUESTS_RATE.burst,
        "others_at_once": link.OTHERS_RATE.burst,
        "last_hellos_at_once": link.LAST_RATE.burst,
        "names_at_once": link.NAMES.burst,
    }


def program_times() -> dict[str, Any]:
    """Return the times of the program by the table's names."""
    assert link.REQUESTS_RATE.every_s == link.OTHERS_RATE.every_s
    return {
        "resend_first_s": delivery.RESEND_FIRST_S,
        "resend_max_s": delivery.RESEND_S_MAX,
        "resend_eager_s": delivery.RESEND_EAGER_S,
        "resend_idle_s": delivery.RESEND_IDLE_S,
        "answer_pause_s": delivery.ANSWER_PAUSE_S,
        "greet_first_s": link.GREET_FIRST_S,
        "greet_every_s": link.GREET_EVERY_S,
        "ask_every_s": link.ASK_EVERY_S,
        "challenge_s": link.CHALLENGED_S,
        "stray_s": link.STRAY_S,
        "retired_requests_s": delivery.RETIRED_S_MAX,
        "gone_handoffs_s": devices.FORGOTTEN_AFTER_S,
        "offer_s": phone_steps.OFFER_LIFETIME_S,
        "renewal_window_s": renewals.RENEWAL_WINDOW_S,
        "renewal_pauses_s": list(renewals.RENEWAL_PAUSES_S),
        "revocation_s": oauth.REVOKE_TIMEOUT_S,
        "pairing_s": pairing.INVITATION_LIFETIME_S,
        "pair1_every_s": phone_pairing.PAIR1_EVERY_S,
        "pair1_for_s": phone_pairing.PAIR1_WAIT_S,
        "ended_invitations_s": invitations.ENDED_S_MAX,
        "allowance_every_s": link.OTHERS_RATE.every_s,
        "last_hello_after_s": link.LAST_AFTER_S,
        "last_hello_every_s": link.LAST_RATE.every_s,
        "name_every_s": link.NAMES.every_s,
        "lease_written_s": lease.MARK_EVERY_S,
    }


def test_limits_and_times_are_those_of_the_program() -> None:
    assert table()["limits"] == program_limits()
    assert {name: row["value"] for name, row in table()["times"].items()} == program_times()
    drawn = {name: tuple(row["drawn"]) for name, row in table()["times"].items() if "drawn" in row}
    assert drawn == dict.fromkeys(("resend_first_s", "resend_max_s", "resend_idle_s"), delivery.RESEND_DRAWN)


# -- Both machines -----------------------------------------------------------------------------------------

PHONE: dict[str, PhoneState] = {
    "NEW": handoff.New(),
    "OFFERED": handoff.Offered(),
    "ACCEPTED": handoff.Offered(is_accepted=True),
    "RELEASED": handoff.Released(),
    "DONE": handoff.Done(),
    "CANCELLING": handoff.Cancelling(),
    "CANCELLED": handoff.Cancelled(),
    "REVOKING": handoff.Revoking(),
    **{f"GONE({why})": handoff.Gone(why) for why in get_args(handoff.GoneReason)},
}
COMPANION: dict[str, CompanionState] = {
    "NONE": handoff.NoHandoff(),
    "READY": handoff.Ready(),
    "STORED": handoff.HandoffStored(),
    **{f"DEAD({why})": handoff.Dead(why) for why in get_args(handoff.DeadReason) if why != "ended"},
    "DEAD(revoked) stored": handoff.Dead("revoked", was_stored=True),
    "DEAD(ended) stored": handoff.Dead("ended", was_stored=True),
}
Step = Callable[[Any, Any], Any]


def wrong_cells(table: Table, end: str, step: Step) -> list[tuple[str, str]]:
    """Return each state and event of which one end's step and its table say different things."""
    states: Mapping[str, Any] = PHONE if end == "phone" else COMPANION
    events = get_args(handoff.PhoneEvent if end == "phone" else handoff.CompanionEvent)
    part = table[end]
    assert set(part["states"]) == set(states) and set(part["own_events"]) | set(part["peer_events"]) == set(events)
    found = []
    for cell in make_spec.Machine.of(table, end).cells:
        try:
            answer = step(states[cell.state], cell.event)
        except LocalProtocolError:
            done: tuple[Any, ...] = (None, ())
        else:
            done = (answer.state, tuple(effect.name for effect in answer.effects))
        if done != (states.get(cell.next) if cell.next is not None else None, cell.effects):
            found.append((cell.state, cell.event))
    return found


STEPS: dict[str, Step] = {"phone": handoff.phone_step, "companion": handoff.companion_step}


@pytest.mark.parametrize("end", STEPS)
def test_the_rows_are_the_steps_of_the_program(end: str) -> None:
    assert wrong_cells(table(), end, STEPS[end]) == []
    own = get_args(handoff.PhoneOwnEvent if end == "phone" else handoff.CompanionOwnEvent)
    assert set(table()[end]["own_events"]) == set(own)


@pytest.mark.parametrize("end", STEPS)
def test_no_step_leaves_the_states_of_the_table(end: str) -> None:
    part, states = table()[end], set((PHONE if end == "phone" else COMPANION).values())
    known = {name: state for name, state in (PHONE if end == "phone" else COMPANION).items()}
    reached = list(part["begins"])
    for name in reached:
        for event in (*part["own_events"], *part["peer_events"]):
            try:
                after = STEPS[end](known[name], event).state
            except LocalProtocolError:
                continue
            assert after in states
            reached += [other for other, state in known.items() if state == after and other not in reached]
    assert set(reached) == set(part["states"])


@pytest.mark.parametrize("end", STEPS)
def test_one_wrong_row_of_the_table_is_seen(end: str) -> None:
    for at, row in enumerate(table()[end]["rows"]):
        for plant in ("next", "effects", "effect", "states", "events"):
            changed = table()
            wrong = changed[end]["rows"][at]
            match plant:
                case "next":
                    wrong["next"] = next(
                        name for name in changed[end]["states"] if name not in (row["next"], *row["states"])
                    )
                case "effects":
                    wrong["effects"] = []
                    if row["effects"] == [] or (row["next"] == "same" and wrong == row):
                        continue
                case "effect":
                    wrong["effects"] = [*row["effects"], "SETTLE_TWICE"]
                case "states" if len(row["states"]) > 1:
                    wrong["states"] = row["states"][:-1]
                case "events" if len(row["events"]) > 1:
                    wrong["events"] = row["events"][1:]
                case _:
                    continue
            assert wrong_cells(changed, end, STEPS[end]) != [], (plant, row)


@pytest.mark.parametrize("end", STEPS)
def test_one_wrong_cell_of_a_step_is_seen(end: str) -> None:
    states: Mapping[str, Any] = PHONE if end == "phone" else COMPANION
    for cell in make_spec.Machine.of(table(), end).cells:

        def wrong(state: Any, event: Any, cell: Any = cell) -> Any:
            if (state, event) == (states[cell.state], cell.event):
                return SimpleNamespace(state=state, effects=(SimpleNamespace(name="WRONG"),))
            return STEPS[end](state, event)

        assert wrong_cells(table(), end, wrong) == [(cell.state, cell.event)]


# -- Renewal -----------------------------------------------------------------------------------------------

HOLDS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda left, right: bool(left == right),
    "!=": lambda left, right: bool(left != right),
    "<": lambda left, right: bool(left < right),
    "<=": lambda left, right: bool(left <= right),
    ">=": lambda left, right: bool(left >= right),
}


def by_the_rules(table: Table, facts: Mapping[str, Any]) -> str:
    """Return the reason of the REJECT that the first rule gives that fits; empty: an OFFER."""
    for rule in table["renewal"]["rules"]:
        alternatives = rule["when"] or [[]]
        if any(all(HOLDS[op](facts[fact], value) for fact, op, value in every) for every in alternatives):
            return str(rule["answer"][1]) if rule["answer"][0] == "REJECT" else ""
    raise AssertionError("the last rule fits always")


def wrong_renewals(table: Table) -> list[dict[str, Any]]:
    """Return the cases that the program and the rules decide differently; rules 1 and 9 are the agent's."""
    found = []
    created: list[tuple[int, ...]] = [  # how long ago renewals of this pairing began
        (),
        (0,),
        (700,),
        (4000,),
        (100, 700),
        (700, 4000),
        (3500, 90_000),
        (10, 20, 4000),
        (86_399,),
        (86_401,),
    ]
    grid: Iterator[Any] = itertools.product(
        ("done", "offered", None), (True, False), (True, False), ("active", "retired"),
        ("uncertain", "denied"), ("branch", "mint"), (True, False), (True, False), (1, 2), created,
    )  # fmt: skip
    wall = 1_000_000
    base = Pairing("1" * 32, "p", b"", "watch", "active", b"", "")
    for state, is_open, taken, pairing_state, reason, strategy, may, is_renewal, generation, ages in grid:
        rows = [replace(_handoff("x", at), is_renewal=True, created_at=wall - age) for at, age in enumerate(ages)]
        turn: Any = SimpleNamespace(wall=wall, tx=SimpleNamespace(select=lambda *args, rows=rows, **equals: rows))
        row = (
            None if state is None else replace(_handoff("y", 0), state=state, strategy=strategy, is_renewal=is_renewal)
        )
        renew = messages.Renew(handoff_id="2" * 32, reason=reason, generation=generation)
        done = renewal_refusal(
            turn, replace(base, renew_denied=taken, state=pairing_state), row, renew, is_open=is_open, may_release=may
        )
        recent = [age for age in ages if age < 86_400]
        facts = {
            "renewal_is_open": False, "state": (state or "new").upper(), "other_is_open": is_open, "right_taken": taken,
            "pairing": pairing_state, "reason": reason, "strategy": strategy, "may_hand_out": may,
            "is_renewal": is_renewal, "generation": generation, "renewals_24h": len(recent),
            "since_last_s": min(recent, default=0), "is_repetition": False,
        }  # fmt: skip
        if by_the_rules(table, facts) != done:
            found.append(facts)
    return found


def _handoff(name: str, at: int) -> PhoneHandoff:
    return PhoneHandoff(f"{name}{at}", "1" * 32, "g", "done", "", "branch", "openid", 0, "", 0, 0)


def test_renewal_goes_by_the_rules_of_the_table() -> None:
    assert wrong_renewals(table()) == []
    for at, rule in enumerate(table()["renewal"]["rules"]):
        if rule["number"] in (1, 9, 10):
            continue
        changed = table()
        del changed["renewal"]["rules"][at]
        assert wrong_renewals(changed) != [], rule
        for every in range(len(rule["when"])):
            changed = table()
            del changed["renewal"]["rules"][at]["when"][every]
            if changed["renewal"]["rules"][at]["when"]:
                assert wrong_renewals(changed) != [], (rule, every)
