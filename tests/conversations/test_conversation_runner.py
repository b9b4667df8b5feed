"""The runner against a small end: the right one passes, and each planted mistake is told in words that name it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conversations import laws
from tests.conversations.__main__ import BROKEN, FAILED, PASSED, main, read_conversations
from tests.conversations.fake_end import MISTAKES, FakeEnd
from tests.conversations.laws import Law, Outcome, Told
from tests.conversations.mailboxes import Mailbox
from tests.conversations.peer import Peer, UnreadableError
from tests.conversations.pipe import Pipe, ProgramError
from tests.conversations.runner import play

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FIXTURES = HERE / "fixtures"
FILES = {file["name"]: file for file in read_conversations(FIXTURES)}
PHONE, COMPANION, REFUSAL = "phone-handoff", "companion-handoff", "companion-wrong-direction"
PAIRING = -1  # the last of the steps that make the pairing

# mistake: the conversation that shows it, the step, words of what is said, the page
TOLD = {
    "new number for a resend": (PHONE, 4, "TOKEN $h1 was sent again as another envelope, number 6", "delivery.md"),
    "sends before it saves": (COMPANION, PAIRING, "was sent before anything was saved", "delivery.md"),
    "acknowledges before it saves": (
        COMPANION,
        PAIRING,
        "acknowledged before anything was saved",
        "topics-and-broker.md",
    ),
    "does not acknowledge": (PHONE, PAIRING, "the message was not acknowledged", "topics-and-broker.md"),
    "wrong body": (PHONE, 0, "body.lease_days: expected 90, came 91", "handoff.md"),
    "no answer": (PHONE, 5, 'expected CLOSED (version 1, in reply to 3) {"handoff_id": "$h1"}', "handoff.md"),
    "an answer too many": (PHONE, 5, "was not expected: CLOSED (version 1, number 7", "handoff.md"),
    "wrong state": (PHONE, 0, "state.$p1.handoffs.$h1: expected 'OFFERED', came 'DONE'", "handoff.md"),
    "open request forgotten": (PHONE, 0, "state.$p1.open: expected ['OFFER $h1'], is []", "handoff.md"),
    "number used again": (PHONE, 2, "the number 3 was used before, for another envelope", "delivery.md"),
    "numbers fall": (PHONE, PAIRING, "the number 2 is below 1000, which was used before", "delivery.md"),
    "wrong seq_sent": (PHONE, PAIRING, "seq_sent is 3, and its own number is 2", "messages.md"),
    "a field too many": (PHONE, 0, "body.provider: no such field", "messages.md"),
    "wrong pairing": (COMPANION, PAIRING, "there is no pairing 00000000", "messages.md"),
    "wrong sender": (COMPANION, PAIRING, "from is aaaaaaaa", "messages.md"),
    "wrong grant": (PHONE, 2, "body.sealed.grant.accept_hash: expected '#ACCEPT $h1'", "handoff.md"),
    "wrong reason": (REFUSAL, 0, "refused with bad_field, should be with wrong_direction", "delivery.md"),
    "does not refuse": (REFUSAL, 0, "CLOSED is not said by a companion", "messages.md"),
    "refuses what is good": (COMPANION, 0, "refused with expired, should be not at all", "handoff.md"),
    "same bytes for a new answer": (PHONE, 6, "the bytes of before", "delivery.md"),
    "old id again": (PHONE, 0, "body.handoff_id: expected a fresh value ($h1), came $p1 again", "handoff.md"),
    "error": (PHONE, PAIRING, "the program answered an error: out of order", "adapter.md"),
    "no json": (COMPANION, PAIRING, "cannot be read: it is not JSON", "messages.md"),
    "wrong topic": (COMPANION, PAIRING, "it went to the topic relay/v1/", "topics-and-broker.md"),
    "wrong box": (COMPANION, PAIRING, "the box does not open", "envelope.md"),
    "wrong padding": (COMPANION, PAIRING, "the padding is wrong", "envelope.md"),
    "nonce again": (PHONE, PAIRING, "its nonce was used before", "envelope.md"),
    "milliseconds": (PHONE, PAIRING - 1, "sent_at is 1767225600000, and it is 1767225600 now", "messages.md"),
    "wrong end of the OFFER": (PHONE, 0, "expires_at is 24, and the OFFER is over at 1767312000", "messages.md"),
}
OF_BYTES = ("wrong topic", "wrong box", "wrong padding", "nonce again")


def played(end: FakeEnd, *names: str, level: str = "plain") -> tuple[list[Outcome], Told]:
    """Play these fixtures against one end, as the command line does."""
    told = Told()
    outcomes = [play(FILES[name], end, level=level, told=told) for name in names]
    for outcome in outcomes:
        told.settle(outcome)
    return outcomes, told


@pytest.mark.parametrize("level", ["plain", "envelope"])
def test_the_right_end_passes_at_both_levels(level: str) -> None:
    outcomes, told = played(FakeEnd(), *FILES, level=level)
    assert {one.name: (one.verdict, one.failures) for one in outcomes} == {name: ("passed", []) for name in FILES}
    assert told.never_compared == ["state: may_renew of a pairing"]  # the small end does not tell it


def test_every_mistake_of_the_small_end_is_in_the_table() -> None:
    assert TOLD.keys() == set(MISTAKES)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_at_its_step_in_words_that_name_it(mistake: str) -> None:
    name, step, words, page = TOLD[mistake]
    (outcome,), _ = played(FakeEnd(mistake), name, level="envelope" if mistake in OF_BYTES else "plain")
    assert outcome.verdict == "failed"
    failure = next(one for one in outcome.failures if any(words in line for line in one.lines))
    assert failure.step == step
    assert f"breaks docs/spec/{page}: {failure.law.sentence}" in failure.shown()[-1]


def test_the_steps_before_a_failure_were_right_and_those_behind_it_are_not_played() -> None:
    (outcome,), _ = played(FakeEnd("no answer"), PHONE)
    assert outcome.steps == 4 + 5  # four that make the pairing
    assert {failure.step for failure in outcome.failures} == {5}


@pytest.mark.parametrize(
    ("untold", "mistake"),
    [
        ("save", "acknowledges before it saves"),
        ("ack", "does not acknowledge"),
        ("refuse", "wrong reason"),
        ("state", "wrong state"),
    ],
)
def test_what_a_program_leaves_out_is_not_compared_and_the_summary_says_so(untold: str, mistake: str) -> None:
    outcomes, told = played(FakeEnd(mistake, untold=(untold,)), *FILES)
    assert [one.verdict for one in outcomes] == ["passed"] * len(FILES)
    assert untold in told.never_compared


def test_what_is_told_in_a_later_conversation_counts_for_the_earlier_ones() -> None:
    class Late(FakeEnd):
        """Leaves `refuse` out at first."""

        def ask(self, request: dict[str, Any]) -> dict[str, Any]:
            starts = request["do"] == "start"
            self.starts = getattr(self, "starts", 0) + starts
            self._untold = ("refuse",) if self.starts == 1 else ()
            return super().ask(request)

    outcomes, _ = played(Late(), REFUSAL, REFUSAL)
    assert [one.verdict for one in outcomes] == ["failed", "passed"]
    assert "the message should be refused: wrong_direction" in outcomes[0].failures[0].lines


def test_a_request_that_the_program_does_not_know_leaves_the_conversation_out() -> None:
    outcomes, _ = played(FakeEnd(untold=("restart",)), *FILES)
    assert [one.verdict for one in outcomes] == ["passed", "passed", "not played"]
    assert outcomes[2].not_played == "the program does not know `restart`"


def test_a_file_of_a_higher_version_or_level_is_not_played() -> None:
    told = Told()
    newer = {**FILES[PHONE], "speaks": 3}
    assert "version 3" in play(newer, FakeEnd(), level="plain", told=told).not_played
    of_bytes = {**FILES[PHONE], "level": "envelope"}
    assert "envelope" in play(of_bytes, FakeEnd(), level="plain", told=told).not_played
    assert play(of_bytes, FakeEnd(), level="envelope", told=told).verdict == "passed"


def test_an_end_of_version_1_greets_in_version_1() -> None:
    outcomes, _ = played(FakeEnd(speaks=1), PHONE)
    assert [one.failures for one in outcomes] == [[]]


def test_every_sentence_that_a_failure_can_show_stands_on_its_page() -> None:
    every = [value for value in vars(laws).values() if isinstance(value, Law)] + list(laws.UNREADABLE.values())
    assert len(every) > 12
    for law in every:
        text = " ".join((ROOT / "docs/spec" / law.page).read_text().split())
        assert law.sentence in text, f"{law.page} does not say: {law.sentence}"


# -- The peer's bytes, against the vectors and against itself


def test_the_peer_opens_an_envelope_of_the_vectors() -> None:
    vectors = json.loads((ROOT / "tests/vectors/envelopes-valid.json").read_text())
    case = next(case for case in vectors["cases"] if case["name"] == "closed")
    sent = Peer("phone", "envelope", "").read({"topic": case["topic"], "payload": case["envelope"]})
    assert sent.text == case["plaintext"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("topic", "it went to the topic"),
        ("mailbox", "it went to the topic"),
        ("unknown_sender", "it went to the topic"),
        ("length", "has 4171 bytes"),
        ("magic", "does not begin with RTR1"),
        ("sender", "raw id of its sender"),
        ("recipient", "raw id of the recipient"),
        ("box", "the box does not open"),
        ("padding", "the padding is wrong"),
        ("json", "it is not JSON"),
        ("duplicate_key", "a key stands twice"),
    ],
)
def test_a_spoilt_envelope_has_the_fault_that_it_is_named_for(spoil: str, words: str) -> None:
    send, _ = Peer("companion", "envelope", "spoilt").wrapped({"v": 1, "from": "a", "to": "b"}, spoil)
    with pytest.raises(UnreadableError, match=words):
        Peer("phone", "envelope", "").read(send)


@pytest.mark.parametrize("level", ["plain", "envelope"])
@pytest.mark.parametrize(
    ("spoil", "words"), [(None, ""), ("spelling", "not the one spelling"), ("json", "not JSON"), ({"v": 7}, "")]
)
def test_a_grant_is_sealed_and_opened_or_spoilt(level: str, spoil: Any, words: str) -> None:
    peer = Peer("phone", level, "grants")
    sealed = peer.sealed({"v": 1, "scope": "å"}, peer.value("$k1"), spoil)
    if words:
        with pytest.raises(UnreadableError, match=words):
            peer.grant(sealed)
    else:
        assert peer.grant(sealed) == {"v": spoil["v"] if spoil else 1, "scope": "å"}


def test_a_broken_seal_does_not_open() -> None:
    peer = Peer("phone", "envelope", "grants")
    with pytest.raises(UnreadableError, match="does not open"):
        peer.grant(peer.sealed({"v": 1}, peer.value("$k1"), "seal"))


def test_two_mailboxes_come_to_one_transcript_and_tell_each_other_the_end() -> None:
    shown = Mailbox.shown_by(Peer("phone", "envelope", "one"), 1)
    read = Mailbox.read_from(Peer("companion", "envelope", "two"), shown.text, 1)
    assert shown.topic == read.topic
    pair1 = shown.read(read.made("PAIR1", name="ada's phone"))
    assert pair1.message == {"mailbox": "PAIR1", "name": "ada's phone"}
    pair2 = read.read(shown.made("PAIR2", name="kitchen", pairing_id="5" * 32))
    assert pair2.message == {"mailbox": "PAIR2", "name": "kitchen"}
    assert (read.pairing_id, read.transcript) == (shown.pairing_id, shown.transcript)
    assert read.read(shown.made("ENDED", reason=4, name="")).message == {"mailbox": "ENDED", "reason": 4}
    assert shown.read(read.made("DECLINED", reason=2, name="")).message == {"mailbox": "DECLINED", "reason": 2}
    spoilt = read.made("PAIR1", name="ada's phone", spoil="mac")
    with pytest.raises(UnreadableError, match="MAC of PAIR1"):
        shown.read(spoilt)
    assert len(base64.b64decode(spoilt["payload"])) == 4172


# -- A program behind a pipe

ECHO = "import sys\nfor line in sys.stdin: print({answer}, flush=True)"


def piped(code: str, *, answer_s: float = 60.0) -> Pipe:
    """A program in Python."""
    return Pipe([sys.executable, "-c", code], answer_s=answer_s)


def test_a_program_answers_line_by_line() -> None:
    with piped(ECHO.format(answer="line.strip()")) as pipe:
        assert [pipe.ask({"do": "state", "number": n})["number"] for n in range(3)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("", "it ended with exit code 0"),
        ("raise SystemExit(3)", "it ended with exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "it died of signal 9"),
        (ECHO.format(answer="'hello'"), "answered the request `start` with a line that is not JSON: 'hello'"),
        (ECHO.format(answer="'[1]'"), "with JSON that is no object"),
        (ECHO.format(answer=r"'{}\n{}'"), "with more than one line; behind the first: '{}'"),
        ("import sys; sys.stdin.readline(); sys.stdout.write('{')", "it had written '{', without an end of line"),
    ],
)
def test_a_program_that_breaks_is_told_clearly(code: str, words: str) -> None:
    with piped(code) as pipe, pytest.raises(ProgramError) as caught:
        pipe.ask({"do": "start"})
    assert words in str(caught.value)


def test_a_program_that_hangs_is_told_and_killed() -> None:
    deaf = "import sys\nfor line in sys.stdin: pass"
    with (
        piped(deaf, answer_s=0.2) as pipe,
        pytest.raises(ProgramError, match=r"did not answer .*`start` within 0\.2 s"),
    ):
        pipe.ask({"do": "start"})


def test_a_program_that_is_not_there_is_told() -> None:
    with Pipe(["/nonexistent/phone"]) as pipe, pytest.raises(ProgramError, match="it cannot be started"):
        pipe.ask({"do": "start"})


def test_a_program_is_started_anew_after_it_died() -> None:
    code = "import sys\nfor line in sys.stdin:\n    if 'die' in line: raise SystemExit(1)\n    print('{}', flush=True)"
    with piped(code) as pipe:
        assert pipe.ask({"do": "start"}) == {}
        with pytest.raises(ProgramError):
            pipe.ask({"do": "die"})
        assert pipe.ask({"do": "start"}) == {}


# -- The command line


def fake(*mistake: str) -> list[str]:
    """The small end as a program."""
    return ["--", sys.executable, "-m", "tests.conversations.fake_end", *mistake]


@pytest.fixture
def _in_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.usefixtures("_in_the_tree")
class TestCommand:
    """``python -m tests.conversations``."""

    WHERE = ("--folder", str(FIXTURES))

    def test_all_passed_is_0(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([*self.WHERE, *fake()]) == PASSED
        assert "passed 3, failed 0, not played 0" in capsys.readouterr().out

    def test_a_failure_is_1_and_is_shown_whole(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([*self.WHERE, "--end", "phone", "--level", "plain", *fake("no answer")]) == FAILED
        said = capsys.readouterr().out
        assert f"FAILED {PHONE}: handoff.md: A handoff from OFFER to CLOSED" in said
        assert 'step 5: {"do": "receive", "message": {"type": "STORED"' in said
        assert "breaks docs/spec/handoff.md: A handoff from OFFER to CLOSED" in said

    def test_nothing_played_is_1(self, capsys: pytest.CaptureFixture[str]) -> None:
        program = ["--", sys.executable, "-c", ECHO.format(answer="""'{"unknown": true}'""")]
        assert main([*self.WHERE, *program]) == FAILED
        assert "not played: 3, the program does not know `start`" in capsys.readouterr().out

    def test_a_program_that_breaks_is_2_and_is_left_alone_after_three_times(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        for name in "abcde":
            (tmp_path / f"{name}.json").write_text(json.dumps({**FILES[PHONE], "name": name}))
        assert main(["--folder", str(tmp_path), "--", sys.executable, "-c", "raise SystemExit(5)"]) == BROKEN
        said = capsys.readouterr().out
        assert said.count("the program broke: it ended with exit code 5") == 3
        assert "not played: 2, the program had broken too often" in said

    def test_json_is_one_object(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([*self.WHERE, "--json", *fake("wrong reason")]) == FAILED
        said = json.loads(capsys.readouterr().out)
        assert (said["passed"], said["failed"], said["not_played"]) == (2, 1, 0)
        (failed,) = [one for one in said["conversations"] if one["verdict"] == "failed"]
        assert failed["name"] == REFUSAL
        assert failed["failures"][0]["page"] == "docs/spec/delivery.md"

    def test_a_list_names_each_and_plays_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([*self.WHERE, "--list", "--only", "companion-*"]) == PASSED
        said = capsys.readouterr().out
        assert COMPANION in said
        assert "its number is not taken" in said
        assert PHONE not in said

    @pytest.mark.parametrize("words", [["--only", "nothing-*"], [], ["--end", "broker"]])
    def test_wrong_usage_is_2(self, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main([*self.WHERE, *words])
        assert caught.value.code == 2
        assert "usage: python -m tests.conversations" in capsys.readouterr().err

    def test_help_is_enough_to_begin(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "tests.conversations", "--help"], capture_output=True, text=True, check=True
        )
        for words in (
            "--end",
            "--level",
            "--only",
            "--json",
            "docs/spec/adapter.md",
            "exit code:",
            "node docs/examples",
        ):
            assert words in done.stdout
