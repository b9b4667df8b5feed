"""A question before a device loses something is read whole, whatever its names are: the end says what follows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.core.test_serving import GRANT
from tests.properties.one_end import PAIRING
from tests.provider.test_described import DONE
from token_relay.cli.render import CELL_CHARS_MAX, clean
from token_relay.service.questions import erase_question, forget_question, revoke_question, unpair_question

LONG = ["a" * 256, "\u202e" * 256, *(f"{number} of {'w' * 200}? it loses nothing [y/N]" for number in range(20))]
DEVICES = [replace(PAIRING, peer_name="W" * 64, peer_id=chr(97 + number) * 26) for number in range(20)]


@pytest.mark.parametrize("number", [1, 2, 20])
def test_long_names_hide_nothing_of_what_follows(number: int) -> None:
    rows = [replace(DONE, account=account, lease_days=30) for account in LONG[:number]]
    grants = [replace(GRANT, account=account) for account in LONG[:number]]
    device = DEVICES[0]
    asked = {
        revoke_question(device, rows): "another handoff gives one again",
        unpair_question(device, rows): "before it can get a grant",
        forget_question(device, rows): "`phone revoke` takes it away",
        erase_question(grants, DEVICES[:number], with_pairings=True): "to have one again, pair again",
    }
    for question, end in asked.items():
        assert end in question and len(question) < CELL_CHARS_MAX and clean(question).endswith(question[-20:])


def test_who_is_left_out_is_counted() -> None:
    asked = erase_question([replace(GRANT, account=name) for name in "abcde"], DEVICES[:5], with_pairings=True)
    assert "the grant of a and that of b and that of 3 more accounts" in asked
    assert "and the pairing with " in asked and ", 3 more phones?" in asked
