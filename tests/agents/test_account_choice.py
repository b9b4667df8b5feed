"""Whose grant is meant: by the person's word, by there being one account only, or by their choice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.agents.test_device_rows import grant
from token_relay.agents.phone.account_choice import ALL, called, choose, is_called
from token_relay.agents.records import Grant
from token_relay.protocol.errors import LocalError, PersonNeededError

ANN = grant(grant_id="ann", account="Ann@x", subject="sub-ann")
AGAIN = replace(ANN, grant_id="ann-again", client_id="c2", stored_at=2)
BOB = grant(grant_id="bob", account="bob@x", subject="sub-bob")
ELSEWHERE = replace(ANN, grant_id="ann-elsewhere", issuer="https://other")
NAMELESS = grant(grant_id="nameless", account="", subject="")


class Answering:
    """A person who gives one answer, whatever they are shown."""

    def __init__(self, answer: str | None = None) -> None:
        self.answer = answer
        self.offered: list[dict[str, str]] = []

    async def ask(self, kind: Any, text: str, **extra: Any) -> str | None:
        assert kind == "choice"
        self.offered = extra["choices"]
        return self.answer

    async def progress(self, step: dict[str, Any]) -> None:
        raise AssertionError("there is nothing to tell")


@pytest.mark.parametrize(
    ("word", "is_meant"),
    [("Ann@x", True), ("ANN@X", True), ("sub-ann", True), ("SUB-ANN", False), ("ann", False), ("", False)],
)
def test_an_account_is_meant_by_its_address_or_its_subject(word: str, is_meant: bool) -> None:
    assert is_called(word, account="Ann@x", subject="sub-ann") is is_meant
    assert not is_called(word, account="", subject=""), "an account without a name has none"


@pytest.mark.parametrize("grants", [[ANN, AGAIN], [BOB, ANN, AGAIN]])
@pytest.mark.asyncio
async def test_of_one_account_the_newest_grant_is_taken_and_nobody_is_asked(grants: list[Grant]) -> None:
    person = Answering()
    assert await choose(grants, "ann@x" if BOB in grants else "", person, "whose") == "ann-again"
    assert person.offered == []


@pytest.mark.parametrize(
    ("grants", "word", "texts"),
    [
        ([BOB, ANN], "", ["Ann@x", "bob@x"]),
        ([BOB, ANN, AGAIN], "", ["Ann@x", "bob@x"]),
        ([ANN, ELSEWHERE], "", ["Ann@x (sub-ann at https://i)", "Ann@x (sub-ann at https://other)"]),
        ([BOB, ANN, ELSEWHERE], "sub-ann", ["Ann@x (sub-ann at https://i)", "Ann@x (sub-ann at https://other)"]),
        ([ANN, NAMELESS], "", ["Ann@x", "an account without a name at https://i"]),
    ],
)
@pytest.mark.parametrize("or_all", [False, True])
@pytest.mark.asyncio
async def test_of_several_the_person_chooses_and_only_what_was_shown(
    grants: list[Grant], word: str, texts: list[str], or_all: bool
) -> None:
    person = Answering("bob" if word else ALL if not or_all else "another")
    with pytest.raises(PersonNeededError, match="no account was chosen") as refused:
        await choose(grants, word, person, "whose", or_all=or_all)
    assert refused.value.hint == "--account ACCOUNT"
    assert [one["text"] for one in person.offered] == [*texts, *(["all of them"] if or_all else [])]
    assert "ann" not in {one["value"] for one in person.offered} or AGAIN not in grants, "the newest of each account"
    for one in person.offered:
        assert await choose(grants, word, Answering(one["value"]), "whose", or_all=or_all) == one["value"]


@pytest.mark.parametrize(
    ("grants", "said", "hint"),
    [
        ([], "nobody", "token-relay phone sign-in --username U, or --browser"),
        ([BOB, ANN], "Ann@x, bob@x", "--account ACCOUNT"),
    ],
)
def test_a_name_that_nobody_has_is_answered_with_those_that_are_there(
    grants: list[Grant], said: str, hint: str
) -> None:
    with pytest.raises(LocalError, match=f"'eve' is not signed in on this phone; signed in: {said}$") as refused:
        called(grants, "eve")
    assert refused.value.hint == hint
