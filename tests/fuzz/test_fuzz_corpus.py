"""Every kept input goes through its decoder, and the fuzzer finds what it is meant to find."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import fuzz
from tests.fuzz.fuzz_targets import TARGETS

CORPUS_BYTES_MAX = 64_000  # of one target
CASES = [(name, path) for name in TARGETS for path in sorted((fuzz.CORPUS / name).glob("*"))]


@pytest.mark.parametrize(("name", "path"), CASES, ids=lambda value: value.name if isinstance(value, Path) else value)
def test_a_kept_input_raises_nothing_but_what_is_declared(name: str, path: Path) -> None:
    TARGETS[name](path.read_bytes())


def test_every_target_has_a_small_corpus_and_nothing_else_lies_there() -> None:
    assert {path.name for path in fuzz.CORPUS.iterdir()} == set(TARGETS)
    for name in TARGETS:
        sizes = [path.stat().st_size for path in (fuzz.CORPUS / name).iterdir()]
        assert sizes
        assert sum(sizes) <= CORPUS_BYTES_MAX


@pytest.mark.parametrize("name", TARGETS)
def test_a_decoder_stands_generated_and_mutated_input(name: str) -> None:
    """A short run with its own seed in each test run; ``make fuzz`` is the long one."""
    kept = fuzz.corpus_of(name)
    runs = 20 if name in ("sandbox_request", "discovery") else 60

    @settings(max_examples=runs, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(
        st.one_of(st.binary(max_size=200), st.builds(fuzz.mutated, st.sampled_from(kept), st.just(kept), st.randoms()))
    )
    def run(data: bytes) -> None:
        TARGETS[name](data)

    run()


def _breaks(data: bytes) -> None:
    """A decoder that forgot that JSON strings may hold lone surrogates, behind two doors."""
    if data[:1] == b"{" and b"ud800" in data:
        raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")


def test_the_fuzzer_finds_and_shortens_a_planted_bug(capsys: pytest.CaptureFixture[str]) -> None:
    found = fuzz.fuzz("message", seconds=30.0, seed=1, call=_breaks)
    assert found is not None
    assert found.startswith(b"{") and b"ud800" in found
    assert len(found) <= 16


def test_an_input_that_reaches_new_lines_joins_the_pool() -> None:
    lines = fuzz.Lines()
    assert lines.reaches_new(TARGETS["topic"], b"relay/v1/pair/00")
    assert not lines.reaches_new(TARGETS["topic"], b"relay/v1/pair/01")
    assert lines.reaches_new(TARGETS["topic"], b"relay/v1/pair/" + b"0" * 32)


def test_replay_shows_the_error_and_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "input"
    path.write_bytes(b'{"ud800')
    assert fuzz.main(["--target", "message", "--replay", str(path)]) == 0
    monkeypatch.setitem(TARGETS, "message", _breaks)
    assert fuzz.main(["--target", "message", "--replay", str(path)]) == 1
    assert "UnicodeEncodeError" in capsys.readouterr().err
