"""Judges what a program answers to a wrong step: what happened, one thing to do, and nothing else."""

from __future__ import annotations

import contextlib
import io
import re
import shlex

from tests.e2e.processes import Ran
from tests.wrong_steps.places import Place, Places
from tests.wrong_steps.rows_file import Step
from token_relay.cli.main import parse
from token_relay.cli.parsing import UsageError

HINT = re.compile(r"^\s*(?:hint|try|next): (.*)$", re.MULTILINE)
COMMAND = re.compile(r"token-relay(?: [^\s,;()`]+)+")
# What else one can do: an option, a setting, a file, a command of the system; or this very command once more.
OTHER_DEEDS = re.compile(
    r"--[a-z]+|\b(provider|broker|client|token_api|vault)\.[a-z_]+|\b[a-z_]+ = "
    r"|\b(chmod|sudo|pip|ls|df|ss|fuser|findmnt) |\bcorrect \S|\brun the command again\b|\bby itself\b|\bca\.pem\b|\bdevice\.csr\b|\bvault\.key\b|https://"
)


def take(step: Step, places: Places) -> None:
    """Take the wrong step in its place."""

    async def taken() -> None:
        await judge(step, await places.at(step.place, alone=step.alone))

    places.do(taken())


async def judge(step: Step, place: Place) -> None:
    """Type the row's line, and hold the answer against the row and against what every answer must be."""
    for path, text in step.files.items():
        target = place.world.directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(await place.filled(text))
        target.chmod(0o600)
        place.world.permitted.add(str(target))  # a password that the row put there
    for line in step.before:
        await place.do(line)
    try:
        line = await place.filled(step.type.removeprefix("token-relay "))
        assert step.type.startswith("token-relay ")
        ran = await (place.talk(line, step.dialogue) if step.dialogue else place.run(line))
        await check(step, ran, place)
        if step.code:
            error = (await place.run(_as_json(line))).expect(step.exit).json
            shown = error.get("error", error)
            found = shown["code"] if isinstance(shown, dict) else shown
            assert found == step.code, f"{found!r} is not {step.code!r}"
    finally:
        for line in step.after:
            await place.do(line)


async def check(step: Step, ran: Ran, place: Place) -> None:
    """Compare with the row; the message of a failed comparison shows what was printed."""
    printed = f"$ {step.type}\n(exit {ran.code})\n{ran.out}{ran.err}"
    ran.expect(step.exit)
    said = ran.out if step.stream == "stdout" else ran.err
    for text in step.says:
        assert _flat(await place.filled(text)) in _flat(said), f"{text!r} is not said by\n{printed}"
    hints = [found[1] for found in HINT.finditer(said)]
    if step.mark == "hint:":
        assert len(hints) == 1, f"{len(hints)} hints and not one:\n{printed}"
    wanted = _flat(await place.filled(step.do))
    fitting = [hint for hint in hints if wanted in _flat(hint)]
    assert fitting, f"{step.do!r} is no hint of\n{printed}"
    assert "Traceback" not in ran.out + ran.err and "internal error" not in ran.err, printed
    assert "\\x0a" not in ran.out + ran.err, f"a line break that was escaped:\n{printed}"
    for hint in fitting:
        assert is_deed(hint), f"nothing that can be done stands in {hint!r}:\n{printed}"
        assert "?" not in hint, f"a guess in place of an answer:\n{printed}"


def _as_json(line: str) -> str:
    words, less, given = line.partition(" <")
    return f"{words} --json{less}{given}"


def _flat(text: str) -> str:
    return " ".join(text.split())


def is_deed(hint: str) -> bool:
    """Whether the hint has a command that our own parser takes, or names an option, a setting or a system's command."""
    commands = COMMAND.findall(hint)
    assert all(parses(command) for command in commands), f"not a command of ours: {commands}"
    return bool(commands) or OTHER_DEEDS.search(hint) is not None


def parses(command: str) -> bool:
    """Whether the words after ``token-relay``, up to the end of the command in a sentence, are a command line."""
    words = shlex.split(command.rstrip(".:"))[1:]
    if words[-1] in ("…", "..."):  # the rest is the person's own
        words[-1] = "--help"
    for end in range(len(words), 0, -1):
        with contextlib.suppress(UsageError), contextlib.redirect_stdout(io.StringIO()):
            try:
                parse(words[:end])
            except SystemExit as exc:  # --help
                if exc.code:
                    continue
            return not any(word.startswith("-") for word in words[end:])
    return False
