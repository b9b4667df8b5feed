"""DEVICE on a command line: what could mean two devices is refused, and a new device takes no name that could."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from token_relay.agents.device_names import free_name, name_problem, resolve_device
from token_relay.protocol.errors import LocalError

TABLE: dict[str, Any] = tomllib.loads((Path(__file__).parent / "cases" / "device_names.toml").read_text())
DEVICES: dict[str, tuple[str, str]] = {key: (row[0], row[1]) for key, row in TABLE["devices"].items()}


@pytest.mark.parametrize(
    ("case", "word"),
    [
        pytest.param(case, word, id=f"{'+'.join(case['known'])}:{word}")
        for case in TABLE["case"]
        for word in case["words"]
    ],
)
def test_a_word_means_one_device_or_is_refused_with_all_that_it_could_mean(case: dict[str, Any], word: str) -> None:
    for keys in (case["known"], case["known"][::-1]):  # the order of pairing decides nothing
        known = [DEVICES[key] for key in keys]
        if case["means"]:
            assert resolve_device(word, known) == DEVICES[case["means"]][0]
            continue
        with pytest.raises(LocalError) as refused:
            resolve_device(word, known)
        assert all(text in str(refused.value) for text in case["shows"])
        assert refused.value.hint


@pytest.mark.parametrize("case", TABLE["name"], ids=lambda case: str(case["id"])[:6])
def test_a_new_device_is_called_nothing_that_means_another(case: dict[str, Any]) -> None:
    known = [DEVICES[key] for key in case["known"]]
    for name in case["taken"]:
        assert name_problem(case["id"], name, known)
    for name in case["free"]:
        assert not name_problem(case["id"], name, known)


def test_what_a_refusal_shows_in_brackets_means_that_device() -> None:
    known = list(DEVICES.values())
    with pytest.raises(LocalError) as refused:
        resolve_device("watch (6e6ljv)", known)
    for device_id, name in (DEVICES["watch"], DEVICES["shown_thief"]):
        _, _, after = str(refused.value).partition(f", {name} (" if name != "watch" else ": watch (")
        assert resolve_device(after.partition(")")[0], known) == device_id


@pytest.mark.parametrize("name", ["watch", "6e6ljv", "watch (6e6ljv)", "lamp"])
def test_where_nobody_is_asked_a_new_device_gets_a_name_of_its_own(name: str) -> None:
    known = [DEVICES["watch"], ("zzzzyyyyw4zkbm5otk2zc6bq7e", "watch aaaabb")]
    device_id = "aaaabbbbw4zkbm5otk2zc6bq7e"
    called = free_name(device_id, name, known)
    assert called.startswith(name) and (called == name) is (name == "lamp")
    assert resolve_device(called, [*known, (device_id, called)]) == device_id
    assert resolve_device("6e6ljvq", [*known, (device_id, called)]) == DEVICES["watch"][0]
