"""What an app may declare in ``capabilities``: two words, in any of the documented spellings, and nothing else."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from tests.sandbox.native_kit import MFA_USER, PASSWORD_USER, RESET_USER, TYPES, Answer, App

STARTS = [
    ("oauth2/v2.0/initiate", MFA_USER),
    ("signup/v1.0/start", "new@contoso.example"),
    ("resetpassword/v1.0/start", RESET_USER),
]
REFUSED = ("invalid_request", "", 90100)


def started(app: App, path: str, username: str, **declared: str) -> Answer:
    return app.post(path, username=username, challenge_type=TYPES, **declared)


@pytest.mark.parametrize(("path", "username"), STARTS)
@pytest.mark.parametrize("name", ["capabilities", "capability"])
@pytest.mark.parametrize("words", ["pigeon", "mfa_required pigeon", "MFA_required", "mfa_required,pigeon", "redirect"])
def test_an_unknown_word_is_refused_until_the_rule_is_switched_off(
    path: str, username: str, name: str, words: str
) -> None:
    app = App()
    refused = started(app, path, username, **{name: words})
    assert (refused.status, refused.why) == (400, REFUSED)
    assert "capabilities parameter is empty or not valid" in refused.json["error_description"]
    app.order("lenient", name="capabilities")
    assert started(app, path, username, **{name: words}).token


@pytest.mark.parametrize(("path", "username"), STARTS)
@pytest.mark.parametrize(
    "words", ["", "mfa_required", "registration_required", "registration_required mfa_required", "mfa_required "]
)
def test_the_known_words_are_taken_in_any_order_or_none_at_all(path: str, username: str, words: str) -> None:
    assert started(App(), path, username, capabilities=words).token


def test_an_empty_list_is_none_at_all() -> None:
    form = {"client_id": "00001111-aaaa-2222-bbbb-3333cccc4444", "username": MFA_USER, "challenge_type": TYPES}
    answer = App().send("POST", "/contoso/oauth2/v2.0/initiate", urlencode({**form, "capabilities": ""}).encode())
    assert answer.token


def test_a_bad_list_is_told_before_anything_about_the_person() -> None:
    app = App()
    for username in ("nobody@contoso.example", PASSWORD_USER):
        assert started(app, "oauth2/v2.0/initiate", username, capabilities="pigeon").why == REFUSED
