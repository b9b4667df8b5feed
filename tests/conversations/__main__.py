"""``python -m tests.conversations [--end phone|companion] [--level envelope|plain] [--only GLOB] -- PROGRAM ARGS…``.

Plays the conversations of tests/vectors/conversations against a program that is one end of the protocol, written in
any language. What the program reads and writes: docs/spec/adapter.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tests.conversations.laws import Outcome, Told
from tests.conversations.pipe import ANSWER_S, Pipe
from tests.conversations.runner import play

FOLDER = Path(__file__).parents[1] / "vectors" / "conversations"
BROKEN_MAX = 3  # conversations one after another in which the program broke: then it is left alone
PASSED, FAILED, BROKEN = 0, 1, 2
EPILOG = """\
examples:
  make conversations ARGS="--end companion --level plain -- node docs/examples/adapter-companion.cjs"
  make conversations ARGS="--end companion --only 'companion-lease-*' -- ./my-companion --adapter"
  make conversations ARGS="--list --end phone"

The program gets one JSON object on each line of its standard input and answers each with one line. All requests and
answers: docs/spec/adapter.md.

A conversation that needs a request which the program does not know ({"unknown": true}), or a higher message version
than it speaks, is not played and counted as such. A failure names the step, what came in, what was expected, what
came, and the sentence of docs/spec that it breaks; the steps before it were right.

exit code: 0 all that was played passed; 1 something failed, or nothing was played; 2 the command line is wrong, or the
program could not be started, died, hung, or answered what is no answer.
"""


def read_conversations(folder: Path) -> list[dict[str, Any]]:
    """Return all files of a folder, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def main(words: list[str]) -> int:
    """Play, print, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.conversations",
        description="Play whole conversations of the protocol against a program that is one end of it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--end", choices=("phone", "companion"), help="which end the program is (default: both)")
    parser.add_argument(
        "--level",
        choices=("envelope", "plain"),
        default="envelope",
        help="envelope: the bytes on the broker; plain: the JSON inside, no cryptography (default: envelope)",
    )
    parser.add_argument("--only", metavar="GLOB", help="only the conversations with such a name")
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="where the conversations lie (default: those of this tree)"
    )
    parser.add_argument(
        "--timeout", type=float, default=ANSWER_S, metavar="S", help="for one answer (default: %(default)g s)"
    )
    parser.add_argument(
        "--list", action="store_true", help="list the conversations and what each is about; play nothing"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="-- PROGRAM ARGS", help="the end under test")
    chosen = parser.parse_args(words)
    command = chosen.program[1:] if chosen.program[:1] == ["--"] else chosen.program
    files = [
        file
        for file in read_conversations(chosen.folder)
        if chosen.end in (None, file["end"]) and fnmatch(file["name"], chosen.only or "*")
    ]
    if not files:
        parser.error(f"no conversation of this name and end lies in {chosen.folder}")
    if chosen.list:
        _print_list(files, as_json=chosen.json)
        return PASSED
    if not command:
        parser.error("a program is missing: … -- PROGRAM ARGS")
    told = Told()
    with Pipe(command, answer_s=chosen.timeout) as pipe:
        outcomes = play_all(files, pipe, level=chosen.level, told=told, is_quiet=chosen.json)
    _print_summary(outcomes, told, total=len(files), as_json=chosen.json)
    if any(one.is_broken for one in outcomes):
        return BROKEN
    return (
        FAILED
        if any(one.failures for one in outcomes) or not any(one.verdict == "passed" for one in outcomes)
        else PASSED
    )


def play_all(files: list[dict[str, Any]], pipe: Pipe, *, level: str, told: Told, is_quiet: bool) -> list[Outcome]:
    """Play one after another. A program that broke is started anew, but not for ever."""
    outcomes: list[Outcome] = []
    in_a_row = 0
    for number, file in enumerate(files, 1):
        _progress(number, len(files), file["name"], is_quiet=is_quiet)
        outcome = play(file, pipe, level=level, told=told)
        in_a_row = in_a_row + 1 if outcome.is_broken else 0
        outcomes.append(outcome)
        if in_a_row == BROKEN_MAX:
            break
    for outcome in outcomes:
        told.settle(outcome)
    return outcomes


def _progress(number: int, total: int, name: str, *, is_quiet: bool) -> None:
    if not is_quiet and sys.stderr.isatty():
        end = "\r" if number < total else "\r\x1b[K"
        print(f"\r\x1b[K{number}/{total} {name}", end=end, file=sys.stderr, flush=True)


def _print_list(files: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print(
            json.dumps([{name: file[name] for name in ("name", "end", "level", "speaks", "about")} for file in files])
        )
        return
    for file in files:
        needs = ["level envelope"] if file["level"] == "envelope" else []
        needs += [f"version {file['speaks']}"] if file["speaks"] > 1 else []
        print(file["name"] + (f" (needs {', '.join(needs)})" if needs else ""))
        print(f"    {file['about']}")


def _print_summary(outcomes: list[Outcome], told: Told, *, total: int, as_json: bool) -> None:
    count = Counter(outcome.verdict for outcome in outcomes)
    why = Counter(outcome.not_played for outcome in outcomes if outcome.verdict == "not played")
    if left := total - len(outcomes):
        why["the program had broken too often"] += left
    summary = {"passed": count["passed"], "failed": count["failed"], "not_played": count["not played"] + left}
    if as_json:
        described = [outcome.described() for outcome in outcomes]
        more = {"why_not_played": dict(why), "never_compared": told.never_compared, "conversations": described}
        print(json.dumps({**summary, **more}, ensure_ascii=False))
        return
    for outcome in outcomes:
        if outcome.failures:
            print(f"FAILED {outcome.name}: {outcome.about}")
            for failure in outcome.failures:
                print("".join(f"    {line}\n" for line in failure.shown()), end="")
            print()
    print(f"passed {summary['passed']}, failed {summary['failed']}, not played {summary['not_played']}")
    for reason, times in why.most_common():
        print(f"    not played: {times}, {reason}")
    if told.never_compared:
        print(f"    never compared, because the program does not tell it: {', '.join(told.never_compared)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
