"""Reads a configuration, names each fault by file, line and key, and refuses files that other users may write.

:func:`check_config` is pure and returns problems as values; the functions below "Files" touch the disk. Past
:func:`load_config` nobody checks again.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from token_relay.host.config import MODELS, AgentConfig, settings
from token_relay.host.provider_behaviour import ProfileFile, problem_of
from token_relay.protocol.errors import ConfigError
from token_relay.protocol.secret import SECRET_CHARS_MAX, Password

CONFIG_BYTES_MAX = 65_536  # a full template is some 6 KiB; anything larger is not a configuration
PROBLEMS_MAX = 20  # a person repairs a file in steps; more lines than this hide the first one

C = TypeVar("C", bound=AgentConfig)


# -- Checking (pure) ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: ``key`` dotted as in the file or empty, ``line`` from 1 or 0 when it has none."""

    key: str
    line: int
    message: str

    def in_file(self, file: str) -> str:
        """Return one line with place and fault, as compilers write it."""
        place = f"{file}:{self.line}" if self.line else file
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


def check_config(model: type[C], text: str, base: Path) -> C | tuple[Problem, ...]:
    """Parse and check a configuration; relative paths start at ``base``. Faults come back as values.

    A profile file that it names is read.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        found = re.search(r"\(at line (\d+)", str(exc))
        line = int(found[1]) if found else text.count("\n") + 1
        return (Problem("", line, "not TOML: " + re.sub(r" \(at .*\)$", "", str(exc))[:200].lower()),)
    except RecursionError:
        return (Problem("", 0, "not TOML: nested too deeply"),)
    except ValueError:  # Python's limit for the digits of an integer
        return (Problem("", 0, "not TOML: a number has too many digits"),)
    try:
        return model.model_validate(data, context={"base": base, "read_profile": _profile_setting})
    except ValidationError as exc:
        return tuple(_problems(model, text, exc))


def _problems(model: type[BaseModel], text: str, exc: ValidationError) -> Iterator[Problem]:
    for error in exc.errors(include_input=False, include_url=False, include_context=False)[:PROBLEMS_MAX]:
        # A union adds its member's name to the place ("broker.username.str"); only real settings are shown.
        place = tuple(part for part in error["loc"] if isinstance(part, str))
        is_nested = any(key.startswith(f"{'.'.join(place[:2])}.") for key, _ in settings(model))
        place = place[: 3 if is_nested else 2]
        key = ".".join(place)
        message = error["msg"].removeprefix("Value error, ")
        match error["type"]:
            case "missing":
                message = "is missing"
            case "extra_forbidden":
                message = "no such setting" + _meant(model, place)
            case "value_error":
                pass
            case _:
                message = message[:1].lower() + message[1:]
        yield Problem(key, _line_of(text, place), message)


def _meant(model: type[BaseModel], place: tuple[str, ...]) -> str:
    """Name the setting that was probably meant, or the table that a misplaced one belongs to."""
    known = [key for key, _ in settings(model)]
    *_, last = place
    near = [key for key in known if key.rpartition(".")[2] == last] or [
        key for key in known if difflib.get_close_matches(last, [key.rpartition(".")[2]], cutoff=0.6)
    ]
    return f" (did you mean {near[0]}?)" if near else ""


def _line_of(text: str, place: tuple[str, ...]) -> int:
    """Find the line of a setting: exact for files written like the template, 0 where it cannot be found."""
    table, header_line = "", 0
    wanted_table, wanted_key = ".".join(place[:-1]), place[-1] if place else ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[{1,2}\s*([\w.-]+)\s*\]", line):
            table = header[1]
            header_line = number if table in (wanted_table, ".".join(place)) else header_line
        elif (key := re.match(r"\s*([\w-]+)\s*=", line)) and (table, key[1]) == (wanted_table, wanted_key):
            return number
    return header_line


# -- Files -------------------------------------------------------------------------------------------------


def load_config(model: type[C], path: Path) -> C:
    """Read and check a configuration file of at most ``CONFIG_BYTES_MAX`` bytes.

    Raises:
        ConfigError: it cannot be read, others may write it, or something in it is wrong; the message has one
            line per fault, with file, line and key.
    """
    text = read_own_text(path, CONFIG_BYTES_MAX, what="configuration", forbidden=0o022)
    result = check_config(model, text, path.parent.absolute())
    if isinstance(result, tuple):
        for kind, other in MODELS.items():
            if other is not model and not isinstance(check_config(other, text, path.parent.absolute()), tuple):
                raise ConfigError(f"{path} is the configuration of a {kind}", hint=f"token-relay {kind} --help")
        raise ConfigError("\n".join(problem.in_file(str(path)) for problem in result))
    return result


def read_profile_file(path: Path) -> ProfileFile:
    """Read and check a profile file. Raises ConfigError, which names the file."""
    text = read_own_text(path, CONFIG_BYTES_MAX, what="profile file", forbidden=0o022)
    try:
        return ProfileFile.model_validate(tomllib.loads(text))
    except ValidationError as exc:
        raise ConfigError(f"{path}: {problem_of(exc)}") from None
    except (ValueError, RecursionError):  # TOMLDecodeError is one
        raise ConfigError(f"{path}: not TOML") from None


def _profile_setting(path: Path) -> ProfileFile:
    try:
        return read_profile_file(path)
    except ConfigError as exc:
        raise ValueError(str(exc).removeprefix(f"{path}: ")) from None  # a fault names the setting, not its value


def read_secret_file(path: Path, what: str, *, is_exact: bool = False) -> Password:
    """Read a password or passphrase; a byte order mark belongs to it if ``is_exact``. Raises as the next one."""
    return Password(read_first_line(path, what, is_exact=is_exact))


def read_first_line(path: Path, what: str, *, is_exact: bool = False) -> str:
    """Read what stands in the first line of a file closed to other users: a secret, which the caller makes one at once.

    Its group may read it: systemd gives credentials to a service through an ACL, which shows as mode 0440.

    Raises:
        ConfigError: it cannot be read, it is open to others, or its first line is empty or too long.
    """
    text = read_own_text(path, SECRET_CHARS_MAX * 4, what=what, forbidden=0o027, is_exact=is_exact)
    line = text.partition("\n")[0].removesuffix("\r")
    if not 0 < len(line) <= SECRET_CHARS_MAX:
        raise ConfigError(f"{path}: {what}: its first line is empty or longer than {SECRET_CHARS_MAX} characters")
    return line


def read_own_text(path: Path, bytes_max: int, *, what: str, forbidden: int, is_exact: bool = False) -> str:
    """Read a regular file of this user or root whose mode has none of the ``forbidden`` bits.

    A byte order mark, with which some editors begin a file, is left out unless ``is_exact``.
    """
    try:
        # O_NONBLOCK: opening a FIFO of that name must not hang before fstat() can refuse it
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{path}: {what} is not a regular file")
            if status.st_uid not in (0, os.geteuid()):
                raise ConfigError(f"{path}: {what} belongs to uid {status.st_uid}, neither this user nor root")
            if status.st_mode & forbidden:
                is_secret = bool(forbidden & 0o004)
                who = "read or written by other users" if is_secret else "written by other users"
                mode = "600" if is_secret else "go-w"
                raise ConfigError(f"{path}: {what} may be {who}", hint=f"chmod {mode} {path}")
            with open(descriptor, "rb", closefd=False) as file:
                octets = file.read(bytes_max + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError as exc:
        raise ConfigError(f"{path}: {what} is missing") from exc
    except OSError as exc:
        raise ConfigError(f"{path}: {what} cannot be read: {exc.strerror}") from exc
    if len(octets) > bytes_max:
        raise ConfigError(f"{path}: {what} is larger than {bytes_max} bytes")
    try:
        return octets.decode("utf-8" if is_exact else "utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: {what} is not UTF-8 text") from None
