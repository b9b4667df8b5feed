"""A disk that loses power: what a process did to its files, recorded with strace, and what may be left of it.

The model is the least that POSIX promises. A write, a new length, a name made, moved or removed is certain only
after the ``fsync`` of its file or of its directory; until then each of them may be on the disk or not, independently
of the others, and the last one may be there in part. What was synced stays. (A disk that says it has synced and has not
is beyond any store, and beyond this model.) Most file systems promise more.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests import needs
from tests.watchdog import HANG_S

SECTOR = 512
EVERY_SUBSET_MAX = 5  # of so few unsynced changes every subset is tried
SUBSETS = 8  # of more: none, each missing, each alone, each as the last one, and so many by chance
CALLS = (
    "open,openat,creat,write,writev,pwrite64,pwritev,pwritev2,ftruncate,truncate,fallocate,copy_file_range,sendfile,"
    "fsync,fdatasync,sync_file_range,unlink,unlinkat,rename,renameat,renameat2,link,linkat,symlink,symlinkat"
)


# -- what was done ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Write:
    name: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Create:
    name: str


@dataclass(frozen=True, slots=True)
class Unlink:
    name: str


@dataclass(frozen=True, slots=True)
class Rename:
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Sync:
    """Of a file, or of the directory when ``name`` is empty."""

    name: str


@dataclass(frozen=True, slots=True)
class Told:
    """The program said that its commit had returned."""


Call = Write | Truncate | Create | Unlink | Rename | Sync | Told


class RecorderError(Exception):
    """The recording holds something that this recorder does not know."""


def why_not() -> str:
    """Return why nothing can be recorded here; empty when it can."""
    if why := needs.missing("strace"):
        return why
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False, timeout=HANG_S)
    return "" if tried.returncode == 0 else "strace is not allowed to trace here (ptrace)"


def record(command: list[str], directory: Path, told: bytes, trace: Path) -> list[Call]:
    """Run ``command`` and return what it did to the files of ``directory``, in order."""
    # strings in hexadecimal and whole; -y names the file behind each descriptor
    strace = ["strace", "-f", "-q", "-y", "-xx", "-s", "1000000", "-e", f"trace={CALLS}", "-o", str(trace)]
    subprocess.run([*strace, *command], check=True, capture_output=True, timeout=HANG_S)
    calls = list(_parsed(_whole_lines(trace.read_text().splitlines()), directory, told))
    if Told() not in calls:
        raise RecorderError("the recording shows nothing")
    return calls


def _whole_lines(lines: Iterable[str]) -> Iterator[str]:
    """Put together what strace has cut in two because another thread came in between."""
    begun: dict[str, str] = {}
    for line in lines:
        pid, rest = line.split(None, 1)
        if rest.endswith("<unfinished ...>"):
            begun[pid] = rest.removesuffix("<unfinished ...>").rstrip()
        elif found := re.match(r"<\.\.\. \w+ resumed>(.*)", rest):
            yield begun.pop(pid) + found[1]
        elif not rest.startswith(("+++", "---")):
            yield rest


_CALL = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+)(?:<(.*)>)?")
_FD = re.compile(r"(?:AT_FDCWD|\d+)<([^>]*)>")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


def _octets(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else text.encode()


def _parsed(lines: Iterable[str], directory: Path, told: bytes) -> Iterator[Call]:
    names: set[str] = set()
    for line in lines:
        found = _CALL.match(line)
        if found is None or found[3].startswith("-"):
            if found is None and "= ?" not in line and " = -1 " not in line:
                raise RecorderError(f"not understood: {line[:200]}")
            continue
        call, arguments, result = found[1], found[2], int(found[3])
        strings = [_octets(text) for text in _STRING.findall(arguments)]
        opened = _FD.match(arguments)
        behind = _octets(opened[1]).decode() if opened else ""
        numbers = [int(part) for part in re.findall(r", (\d+)(?=,|$)", arguments)]
        if call == "write" and strings == [told]:
            yield Told()
        elif call in ("open", "openat", "creat"):
            name = _within(strings[0].decode(), directory)
            if name and "O_CREAT" in arguments and name not in names:
                names.add(name)
                yield Create(name)
            if name and "O_TRUNC" in arguments:
                yield Truncate(name, 0)
        elif call in ("fsync", "fdatasync") and _is_inside(behind, directory):
            yield Sync(_within(behind, directory))
        elif call == "pwrite64" and _within(behind, directory):
            if result != len(strings[0]):
                raise RecorderError("a write was short")
            yield Write(_within(behind, directory), numbers[-1], strings[0])
        elif call == "ftruncate" and _within(behind, directory):
            yield Truncate(_within(behind, directory), numbers[-1])
        elif call in ("unlink", "unlinkat") and _within(strings[0].decode(), directory):
            name = _within(strings[0].decode(), directory)
            names.discard(name)
            yield Unlink(name)
        elif call in ("rename", "renameat", "renameat2") and _within(strings[0].decode(), directory):
            old, new = (_within(text.decode(), directory) for text in strings)
            names = names - {old} | {new}
            yield Rename(old, new)
        elif _is_inside(behind, directory) or any(_is_inside(os.fsdecode(text), directory) for text in strings):
            raise RecorderError(f"not known: {line[:200]}")


def _is_inside(path: str, directory: Path) -> bool:
    return path == str(directory) or path.startswith(f"{directory}/")


def _within(path: str, directory: Path) -> str:
    return path.removeprefix(f"{directory}/") if path.startswith(f"{directory}/") else ""


# -- what is left -------------------------------------------------------------------------------------------

Image = dict[str, bytes]


@dataclass(slots=True)
class _File:
    durable: bytes = b""
    unsynced: list[Write | Truncate] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which unsynced changes reached the disk, and what became of the last write if that was among them."""

    names: tuple[bool, ...]
    data: tuple[tuple[bool, ...], ...]
    last: str = "whole"


class Disk:
    """The files of one directory, and what of them is certain."""

    def __init__(self, image: Image | None = None) -> None:
        self._files = {name: _File(content) for name, content in (image or {}).items()}
        self._durable_names = dict(self._files)
        self._unsynced_names: list[Create | Unlink | Rename] = []
        self._created: dict[int, _File] = {}  # by position in _unsynced_names
        self._last: Write | None = None

    def apply(self, call: Call) -> None:
        """Do what the program did."""
        self._last = None
        match call:
            case Write(name, _, _) | Truncate(name, _):
                self._files[name].unsynced.append(call)
                self._last = call if isinstance(call, Write) else None
            case Create(name):
                if name in self._files:
                    return
                self._files[name] = self._created[len(self._unsynced_names)] = _File()
                self._unsynced_names.append(call)
            case Unlink(name):
                del self._files[name]
                self._unsynced_names.append(call)
            case Rename(old, new):
                self._files[new] = self._files.pop(old)
                self._unsynced_names.append(call)
            case Sync(""):
                self._durable_names = dict(self._files)
                self._unsynced_names, self._created = [], {}
            case Sync(name):
                file = self._files[name]
                file.durable, file.unsynced = _content(file, [True] * len(file.unsynced), "whole"), []
            case Told():
                pass

    def images(self, chance: random.Random) -> Iterator[Image]:
        """Yield what the disk may hold if the power goes now; the first one is what the program sees."""
        files = self._all_files()
        sizes = [len(file.unsynced) for file in files]
        everything = Choice((True,) * len(self._unsynced_names), tuple((True,) * size for size in sizes))
        yield self._image(everything)
        total = len(self._unsynced_names) + sum(sizes)
        for bits in _subsets(total, chance):
            rest = iter(bits)
            names = tuple(next(rest) for _ in self._unsynced_names)
            yield self._image(Choice(names, tuple(tuple(next(rest) for _ in range(size)) for size in sizes)))
        if self._last is not None:
            for last in ("first half", "second half", "half zeroed", "zeroed", "one sector", "random"):
                yield self._image(Choice(everything.names, everything.data, last), chance)

    def _all_files(self) -> list[_File]:
        found = [*self._durable_names.values(), *self._created.values(), *self._files.values()]
        return list({id(file): file for file in found}.values())

    def _image(self, choice: Choice, chance: random.Random | None = None) -> Image:
        names = dict(self._durable_names)
        for at, (change, is_there) in enumerate(zip(self._unsynced_names, choice.names, strict=True)):
            if not is_there:
                continue
            match change:
                case Create(name):
                    names[name] = self._created[at]
                case Unlink(name):
                    names.pop(name, None)
                case Rename(old, new):
                    if old in names:
                        names[new] = names.pop(old)
        kept = {id(file): bits for file, bits in zip(self._all_files(), choice.data, strict=True)}
        return {
            name: _content(file, kept[id(file)], choice.last if self._is_last(file) else "whole", chance)
            for name, file in names.items()
        }

    def _is_last(self, file: _File) -> bool:
        return bool(file.unsynced) and file.unsynced[-1] is self._last


def _subsets(total: int, chance: random.Random) -> Iterator[tuple[bool, ...]]:
    """Yield subsets of so many changes; see ``SUBSETS``."""
    if total <= EVERY_SUBSET_MAX:
        for number in range(1 << total):
            yield tuple(bool(number >> at & 1) for at in range(total))
        return
    yield (False,) * total
    for at in range(total):
        yield tuple(other != at for other in range(total))
        yield tuple(other == at for other in range(total))
        yield tuple(other < at for other in range(total))
    for _ in range(SUBSETS):
        yield tuple(chance.random() < 0.5 for _ in range(total))


def _content(file: _File, kept: Iterable[bool], last: str, chance: random.Random | None = None) -> bytes:
    content = bytearray(file.durable)
    for number, (change, is_there) in enumerate(zip(file.unsynced, kept, strict=True), 1):
        if not is_there:
            continue
        if isinstance(change, Truncate):
            content[:] = content[: change.size].ljust(change.size, b"\0")
            continue
        offset, data = change.offset, change.data
        if number == len(file.unsynced):
            offset, data = _torn(offset, data, last, chance)
        content.extend(bytes(max(0, offset + len(data) - len(content))))
        content[offset : offset + len(data)] = data
    return bytes(content)


def _torn(offset: int, data: bytes, last: str, chance: random.Random | None) -> tuple[int, bytes]:
    half = len(data) // 2
    match last:
        case "first half":
            return offset, data[:half]
        case "second half":
            return offset + half, data[half:]
        case "half zeroed":
            return offset, data[:half] + bytes(len(data) - half)
        case "zeroed":
            return offset, bytes(len(data))
        case "one sector":
            return offset, data[:SECTOR]
        case "random":
            assert chance is not None
            return offset, chance.randbytes(len(data))
        case _:
            return offset, data


def write_image(image: Image, directory: Path) -> None:
    """Make the directory hold this and nothing else."""
    for old in directory.iterdir():
        old.unlink()
    for name, content in image.items():
        path = directory / name
        path.write_bytes(content)
        path.chmod(0o600)


@dataclass(slots=True)
class Tally:
    """What was checked in this run, for its last lines."""

    lines: list[str] = field(default_factory=list)

    def add(self, boundaries: int, disks: int, where: str) -> None:
        """Note so many calls after which the power went, and so many different disks that were left."""
        self.lines.append(f"power cuts: after each of {boundaries} calls {where}, {disks} different disks opened")
