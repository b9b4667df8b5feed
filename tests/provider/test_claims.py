"""A claims challenge is read strictly, in each spelling that a resource's header has."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_relay.provider.claims import CLAIMS_CHARS_MAX, read_claims

NBF = '{"access_token":{"nbf":{"essential":true,"value":"1800000000"}}}'
CP1 = {"values": ["cp1"]}
SENT = {"access_token": {"nbf": {"essential": True, "value": "1800000000"}, "xms_cc": CP1}}


@pytest.mark.parametrize(
    "spelled",
    [
        NBF,
        f"{NBF} \n",
        base64.b64encode(NBF.encode()).decode(),
        base64.b64encode(NBF.encode()).decode().rstrip("="),
        base64.urlsafe_b64encode(NBF.encode()).decode(),
    ],
)
def test_json_and_base64_mean_the_same_and_cp1_is_added(spelled: str) -> None:
    sent = read_claims(spelled)
    assert sent is not None and json.loads(sent) == SENT


@pytest.mark.parametrize(
    ("claims", "sent"),
    [
        ({"acrs": {"essential": True, "value": "cp1"}}, {"acrs": {"essential": True, "value": "cp1"}, "xms_cc": CP1}),
        ({"polids": {"values": ["a", "b"]}}, {"polids": {"values": ["a", "b"]}, "xms_cc": CP1}),
        ({"acr": None}, {"acr": None, "xms_cc": CP1}),
        ({"nbf": {"value": 7}}, {"nbf": {"value": 7}, "xms_cc": CP1}),
        ({"xms_cc": {"values": ["cp1", "x"]}}, {"xms_cc": {"values": ["cp1", "x"]}}),
    ],
)
def test_claims_are_passed_on_as_they_are(claims: object, sent: object) -> None:
    text = read_claims(json.dumps({"access_token": claims}))
    assert text is not None and json.loads(text) == {"access_token": sent}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "null",
        "{}",
        "e30",
        "!!!!",
        "é",
        '{"access_token":null}',
        '{"access_token":[]}',
        '{"access_token":{}}',
        '{"access_token":{"":null}}',
        '{"access_token":{"a b":null}}',
        '{"access_token":{"a":1}}',
        '{"access_token":{"a":"x"}}',
        '{"access_token":{"a":{"essential":"true"}}}',
        '{"access_token":{"a":{"value":1.5}}}',
        '{"access_token":{"a":{"value":NaN}}}',
        '{"access_token":{"a":{"value":{}}}}',
        '{"access_token":{"a":{"values":[]}}}',
        '{"access_token":{"a":{"values":"x"}}}',
        '{"access_token":{"a":{"unknown":1}}}',
        '{"access_token":{"a":null},"access_token":{"b":null}}',
        '{"access_token":{"a":null,"a":null}}',
        '{"access_token":{"a":null},"id_token":{"a":null}}',
        '{"userinfo":{"a":null}}',
        '{"access_token":{"a":{"value":"' + "x" * 513 + '"}}}',
        json.dumps({"access_token": {f"a{number}": None for number in range(17)}}),
        json.dumps({"access_token": {"a": {"values": ["x"] * 17}}}),
        '{"access_token":' * 200,
        "e" * (CLAIMS_CHARS_MAX + 1),
    ],
)
def test_what_is_no_challenge_is_refused(text: str) -> None:
    assert read_claims(text) is None


@given(st.text(max_size=200))
def test_no_text_makes_it_stumble(text: str) -> None:
    for spelled in (text, "{" + text, base64.b64encode(text.encode("utf-8", "replace")).decode()):
        sent = read_claims(spelled)
        assert sent is None or read_claims(sent) == sent
