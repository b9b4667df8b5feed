"""Feed mutated input to every decoder, guided by the lines that it reaches: ``make fuzz T=60 TARGET=message``.

Small on purpose, and without a dependency: an input that reaches a line that no other reached joins the pool. A
failing input is made shorter, saved in ``.fuzz/``, and printed with the one command that replays it.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import TraceFunction

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

from tests.fuzz.fuzz_targets import TARGETS  # noqa: E402  # after the path is set

CORPUS = HERE / "corpus"
FOUND = ROOT / ".fuzz"
INPUT_BYTES_MAX = 20_000
POOL_MAX = 2_000
SHORTEN_S_MAX = 10.0
WATCHED = (str(ROOT / "relay"), str(ROOT / "device"))
WORDS = (
    b"\0", b"\xff", b"\x80", b"\xed\xa0\x80", b"\xc0\xaf", b"{}", b"[]", b"null", b"true", b"-1", b"0", b"1e999",
    b"NaN", b'"\\ud800"', b"9" * 30, b"9" * 5000, b"[" * 2000, b'{"a":' * 500, b"\r\n", b"\n\n", b"%00", b"%ff",
    b"&", b"=", b"a = ", b"[[a]]\n", b"'''", b'"""', b"1979-05-27", b"../", b"+", b"#", b"/", b"\xe2\x80\xae",
)  # fmt: skip


class Lines:
    """The lines of this project that a call reaches, by ``sys.settrace``."""

    def __init__(self) -> None:
        self.known: set[tuple[CodeType, int]] = set()
        self._new = False

    def reaches_new(self, call: Callable[[bytes], None], data: bytes) -> bool:
        """Run it, and say whether it went where nothing has been before."""
        self._new = False
        sys.settrace(self._enter)
        try:
            call(data)
        finally:
            sys.settrace(None)
        return self._new

    def _enter(self, frame: FrameType, event: str, arg: object) -> TraceFunction | None:
        return self._line if frame.f_code.co_filename.startswith(WATCHED) else None

    def _line(self, frame: FrameType, event: str, arg: object) -> TraceFunction:
        if event == "line":
            place = (frame.f_code, frame.f_lineno)
            if place not in self.known:
                self.known.add(place)
                self._new = True
        return self._line


def mutated(data: bytes, pool: list[bytes], rng: random.Random) -> bytes:
    """One to four small changes."""
    for _ in range(rng.randint(1, 4)):
        start, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
        end = min(end, start + rng.choice((1, 2, 4, 16, 256)))
        match rng.randrange(7):
            case 0:
                data = data[:start] + data[end:]
            case 1:
                data = data[:start] + rng.randbytes(rng.randint(1, 4)) + data[end:]
            case 2:
                data = data[:start] + rng.choice(WORDS) + data[rng.choice((start, end)) :]
            case 3:
                data = data[:start] + data[start:end] * rng.choice((2, 3, 50)) + data[end:]
            case 4:
                other = rng.choice(pool)
                data = data[:start] + other[rng.randint(0, len(other)) :]
            case 5:
                data = data[:start] + bytes(byte ^ (1 << rng.randrange(8)) for byte in data[start:end]) + data[end:]
            case 6:
                other = rng.choice(pool)
                at = rng.randint(0, len(other))
                data = data[:start] + other[at : at + rng.choice((4, 32, 256))] + data[end:]
    return data[:INPUT_BYTES_MAX]


def corpus_of(name: str) -> list[bytes]:
    """The inputs that are kept in the tree, in the order of their names."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def fails(call: Callable[[bytes], None], data: bytes) -> BaseException | None:
    """Return what the target raises for this input, if anything."""
    try:
        call(data)
    except Exception as exc:
        return exc
    return None


def shortened(call: Callable[[bytes], None], data: bytes, kind: type[BaseException]) -> bytes:
    """Cut pieces out for as long as the same kind of error comes."""
    ends = time.monotonic() + SHORTEN_S_MAX
    size = max(1, len(data) // 2)
    while size and time.monotonic() < ends:
        at = 0
        while at < len(data) and time.monotonic() < ends:
            shorter = data[:at] + data[at + size :]
            if type(fails(call, shorter)) is kind:
                data = shorter
            else:
                at += size
        size //= 2
    return data


def fuzz(name: str, *, seconds: float, seed: int, call: Callable[[bytes], None] | None = None) -> bytes | None:
    """Fuzz one target; returns a short failing input, or None. Prints its progress."""
    call = call or TARGETS[name]
    rng = random.Random(f"{name}:{seed}")
    lines = Lines()
    pool = corpus_of(name) or [b""]
    runs, started, shown = 0, time.monotonic(), 0.0
    queue = list(pool)
    while (now := time.monotonic()) - started < seconds or queue:
        data = queue.pop() if queue else mutated(rng.choice(pool), pool, rng)
        runs += 1
        try:
            if lines.reaches_new(call, data) and len(pool) < POOL_MAX:
                pool.append(data)
        except Exception as exc:
            # Tracing takes stack of its own: a RecursionError that comes only under it is no bug.
            if type(fails(call, data)) is type(exc):
                return shortened(call, data, type(exc))
        if now - shown >= 1.0 and sys.stderr.isatty():
            shown = now
            print(f"\r{name:16} {runs:8} runs, {len(lines.known):5} lines", end="", file=sys.stderr)
    took = time.monotonic() - started
    print(f"\r{name:16} {runs:8} runs, {runs / took:7.0f}/s, {len(lines.known):5} lines, pool {len(pool)}", flush=True)
    return None


def _replay(name: str, path: Path) -> int:
    error = fails(TARGETS[name], path.read_bytes())
    if error is None:
        print(f"{name}: {path}: nothing is wrong with it any more")
        return 0
    traceback.print_exception(error)
    return 1


def main(argv: list[str] | None = None) -> int:
    """Fuzz every target, or one; or replay one input. The exit code is 1 when something was found."""
    parser = argparse.ArgumentParser(prog="tests/fuzz/fuzz.py", description=__doc__)
    parser.add_argument("--target", choices=sorted(TARGETS), help="this one only")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each target (default: 10)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="for the same run again")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one saved input; needs --target")
    args = parser.parse_args(argv)
    if args.replay:
        if not args.target:
            parser.error("--replay needs --target")
        return _replay(args.target, args.replay)
    found = 0
    print(f"seed {args.seed}, {args.seconds:g} s for each target")
    for name in [args.target] if args.target else TARGETS:
        data = fuzz(name, seconds=args.seconds, seed=args.seed)
        if data is None:
            continue
        found += 1
        FOUND.mkdir(exist_ok=True)
        path = FOUND / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        error = fails(TARGETS[name], data)
        print(f"{name:16} FAILED: {type(error).__name__}: {str(error)[:200]}")
        print(f"    replay: make fuzz TARGET={name} REPLAY={path.relative_to(ROOT)}", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
