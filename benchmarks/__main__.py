"""``python -m benchmarks [--quick] [--json] [--only NAME …] [--directory DIR]``: print the table."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Bench, BenchmarkError, machine
from benchmarks.table import Report, Section, show

SUBJECTS = ("envelope", "channel", "handoff", "token", "idle", "companions", "refresh", "provider", "console")
DIRECTORY_CHARS_MAX = 50  # the path of a Unix socket has at most 107 bytes; ours add some 40


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for and print it; 1 when something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the relay against its floors.")
    parser.add_argument("--quick", action="store_true", help="fewer samples, idle load over 10 s instead of 60 s")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument(
        "--only", nargs="+", choices=SUBJECTS, default=SUBJECTS, metavar="NAME", help=", ".join(SUBJECTS)
    )
    parser.add_argument("--directory", type=Path, help="a directory on the disk to measure; else the temporary one")
    args = parser.parse_args(arguments)
    if args.directory is not None and len(str(args.directory.absolute())) > DIRECTORY_CHARS_MAX:
        parser.error(f"--directory: at most {DIRECTORY_CHARS_MAX} characters, since sockets lie in it")
    with tempfile.TemporaryDirectory(prefix="rtb", dir=args.directory and args.directory.absolute()) as directory:
        bench = Bench(Path(directory), is_quick=args.quick)
        sections = tuple(_run(name, bench) for name in args.only)
    show(Report(machine(), sections), json_wanted=args.json)
    return 1 if any(section.not_measured for section in sections) else 0


def _run(name: str, bench: Bench) -> Section:
    sys.stderr.write(f"measuring: {name}\n")
    try:
        section: Section = importlib.import_module(f"benchmarks.{name}").run(bench)
    except BenchmarkError as exc:
        return Section(name, not_measured=str(exc))
    return section


if __name__ == "__main__":
    sys.exit(main())
