"""A measurement that cannot go on says why, and concludes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.probe import probe_kit
from tests.probe.probe_kit import Bench, bench, measure
from token_relay.protocol.errors import LocalError, PersonNeededError, RelayError, TransientError
from token_relay.provider.http import AnswerLost, HttpRequest, HttpResponse
from token_relay.sandbox.provider.world.model import BehaviourModel


def a_bench(**person: Any) -> Bench:
    return bench(BehaviourModel(refresh="spends"), {"leeway_s": 0}, **person)


def test_a_person_who_does_not_sign_in_stops_it() -> None:
    with pytest.raises(PersonNeededError, match="nobody signed in"):
        measure(a_bench(stops_at=1))


def test_another_account_at_the_second_sign_in_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    at = a_bench()
    ask = at.person.ask

    async def ask_another(kind: Any, text: str, **extra: Any) -> str | None:
        if at.person.windows:
            monkeypatch.setattr(probe_kit, "USERNAME", "reset@contoso.example")
        return await ask(kind, text, **extra)

    monkeypatch.setattr(at.person, "ask", ask_another)
    with pytest.raises(LocalError, match="somebody else signed in this time"):
        measure(at)


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (HttpResponse(429, {}, b""), TransientError, "the provider cannot be asked now: too many requests"),
        (HttpResponse(401, {}, json.dumps({"error": "invalid_client"}).encode()), LocalError, "invalid_client"),
        (AnswerLost("the connection ended"), TransientError, "an answer of the provider was lost"),
    ],
    ids=["busy", "client", "lost"],
)
def test_a_refresh_without_a_verdict_stops_it(
    monkeypatch: pytest.MonkeyPatch, answer: HttpResponse | AnswerLost, error: type[RelayError], said: str
) -> None:
    at = a_bench()
    real = at.http.request

    async def request(asked: HttpRequest) -> HttpResponse | AnswerLost:
        return answer if ("grant_type", "refresh_token") in (asked.form or ()) else await real(asked)

    monkeypatch.setattr(at.http, "request", request)
    with pytest.raises(error, match=said):
        measure(at)
