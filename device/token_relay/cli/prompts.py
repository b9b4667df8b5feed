"""Answers an agent's questions in the middle of a command: passwords, one-time codes, choices, a browser.

The agent asks only when it needs something: the prompt for a password comes only when the provider wants one, and
``--otp-file`` is read only after the provider has sent the code. Answers come from the options, else from the
person at the terminal; where there is neither, :class:`PersonNeededError` says which option would help.

Nothing here prints or keeps an answer. :meth:`Prompts.answer` reveals it once, to the control socket, which only the
agent's user and root can open.
"""

from __future__ import annotations

import getpass
import json
import os
import select
import shlex
import stat
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeVar

from token_relay.cli.client import JSON
from token_relay.cli.graphical_browser import open_graphical
from token_relay.cli.parsing import Context, UsageError
from token_relay.cli.render import clean
from token_relay.protocol.errors import LocalError, PersonNeededError
from token_relay.protocol.secret import SECRET_CHARS_MAX, Code, Password, RefreshToken, Secret

S = TypeVar("S", bound=Secret[str])

CODE_WAIT_S_MAX = 300.0  # codes live five to ten minutes; a file that comes later is useless
POLL_S = 0.1  # too short for a person to notice, too rare to load a small device
CODE_BYTES_MAX = 4_096  # a code has some ten characters; a larger file is the wrong file
RETYPES_MAX = 3
CHOICES_MAX = 32
ATTRIBUTES_CHARS_MAX = 8_192  # what the provider's form takes
ASKED_MAX = 64  # questions in one command; an agent that asks more often is broken


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources of answers: paths (``-`` is standard input) or a command line; None means the terminal."""

    password_file: str | None = None
    new_password_file: str | None = None
    otp_file: str | None = None
    otp_command: str | None = None
    refresh_token_file: str | None = None
    is_confirmed: bool = False  # --yes
    may_open_browser: bool = True


class Prompts:
    """Answers the questions of one command, in order.

    ``monotonic`` and ``sleep`` are the clock that bounds the waiting for ``--otp-file``.
    """

    def __init__(
        self,
        context: Context,
        sources: Sources,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        open_browser: Callable[[str, Mapping[str, str]], bool] = open_graphical,
    ) -> None:
        self._context = context
        self._sources = sources
        self._monotonic = monotonic
        self._sleep = sleep
        self._open_browser = open_browser
        self._asked = 0
        self._refused: Secret[str] | None = None  # the last answer from a file or command, if wrong
        # A code that is in the file before the command begins is an older one.
        path = sources.otp_file
        self._seen = _fingerprint(path) if path not in (None, "-") else None

    def answer(self, ask: Mapping[str, object]) -> str | None:
        """Return the answer to one question, or None when the person declined.

        Raises:
            PersonNeededError: no person is there to answer, or the code did not come within five minutes.
            LocalError: the file or command with the answer failed, or the question is unknown.
        """
        self._asked += 1
        if self._asked > ASKED_MAX:
            raise LocalError(f"the agent asked more than {ASKED_MAX} questions")
        text = clean(str(ask.get("text") or ""))
        match ask.get("kind"):
            case "password":
                return self._password(text or "Password").reveal()
            case "new_password":
                return self._new_password(text or "New password").reveal()
            case "code":
                code = self._code(text or "One-time code", can_resend=ask.get("can_resend") is True)
                return "" if code is None else code.reveal()
            case "choice":
                hint = clean(str(ask.get("hint") or "say it beforehand: --mfa-method, --register"))
                return self._choice(text or "Which one?", ask.get("choices"), hint)
            case "contact":
                return self._contact(text or "E-mail address or phone number", ask.get("proposal"))
            case "attribute":
                return self._attribute(text or "Attribute", ask)
            case "refresh_token":
                return self._refresh_token().reveal()
            case "browser":
                where = text if ask.get("window") else ""
                return self._browser(str(ask.get("url") or ""), where, may_open=ask.get("open") is not False)
            case "confirm":
                return self._confirm(text or "Go on?")
            case "invitation":
                hint = "give the invitation as an argument, or - for standard input"
                return self._visible(f"{text or 'Invitation'}:", hint) or None
            case "device_name":
                return self._visible(f"{text or 'Name'}:", "pair again, with another name after --as") or None
            case kind:
                raise LocalError(f"the agent asked for something unknown: {clean(str(kind))}")

    # -- One kind each -------------------------------------------------------------------------------------

    def _password(self, text: str) -> Password:
        if self._sources.password_file is not None:
            if isinstance(self._refused, Password):
                # The same password again could only get the account locked.
                where = _place(self._sources.password_file)
                raise PersonNeededError("the password was not accepted", hint=f"correct the first line of {where}")
            self._refused = _as_secret(
                Password, self._first_line(self._sources.password_file, "password file"), "password"
            )
            return self._refused
        return self._hidden(Password, text, "use --password-file")

    def _new_password(self, text: str) -> Password:
        """Return a new password: typed twice, or the first line of a file, which is used only once."""
        path = self._sources.new_password_file
        if path is not None:
            if isinstance(self._refused, Password):
                raise PersonNeededError(
                    "the new password was not accepted", hint=f"put another one into {_place(path)}"
                )
            self._refused = _as_secret(Password, self._first_line(path, "password file"), "password")
            return self._refused
        hint = "give it in a file: --new-password-file, for sign-up --password-file"
        for _ in range(RETYPES_MAX):
            typed = self._hidden(Password, text, hint)
            if self._hidden(Password, "once more, to be sure", hint) == typed:
                return typed
            self._context.note("the two are not the same")
        raise PersonNeededError(f"the two passwords differed {RETYPES_MAX} times")

    def _code(self, text: str, *, can_resend: bool = False) -> Code | None:
        """Return the code, or None if the person asks for a new one, with an empty answer or the letter r."""
        if self._sources.otp_command is not None:
            code = _as_secret(Code, _output_of(self._sources.otp_command), "code")
            if code == self._refused:
                raise PersonNeededError(
                    "the code was not accepted, and --otp-command printed the same one again",
                    hint="run the command again when it prints a new one",
                )
            self._refused = code
            return code
        if self._sources.otp_file == "-":
            return _as_secret(Code, self._line_of_stdin("one-time code"), "code")
        if self._sources.otp_file is not None:
            return _as_secret(Code, self._wait_for_code(self._sources.otp_file), "code")
        hint = "use --otp-file or --otp-command"
        if not can_resend:
            return self._hidden(Code, text, hint)
        typed = self._typed_hidden(f"{text} (empty: send a new one)", hint).strip()
        return None if typed.lower() in ("", "r") else _as_secret(Code, typed, "code")

    def _refresh_token(self) -> RefreshToken:
        path = self._sources.refresh_token_file
        if path is None:
            raise UsageError("the agent asks for a refresh token: --refresh-token-file is missing")
        return _as_secret(RefreshToken, self._first_line(path, "refresh token file"), "refresh token")

    def _browser(self, url: str, where: str, *, may_open: bool) -> str:
        if not url.startswith(("https://", "http://")) or not url.isprintable() or len(url) > 8_192:
            raise LocalError("the agent gave an address that no browser should open")
        if self._context.as_json:
            self._context.note(f"{where or 'open in a browser'}: {url}")
        else:
            self._context.note(f"{where or 'open in a browser on this machine'}:")
            self._context.out(url)  # alone on its line, so that a script can take it from here
        if self._sources.may_open_browser and may_open:
            self._open_browser(url, self._context.env)
        return "shown"

    def _confirm(self, text: str) -> str | None:
        if self._sources.is_confirmed:
            return "yes"
        typed = self._visible(f"{text} [y/N]", "--yes answers without asking")
        return "yes" if typed.strip().lower() in ("y", "yes") else None

    def _choice(self, text: str, choices: object, hint: str) -> str | None:
        """Show a numbered list and return the value of the chosen entry; None when the person chose none."""
        offered = [one for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []
        if not 0 < len(offered) <= CHOICES_MAX:
            raise LocalError("the agent offered no choice that can be shown")
        if self._context.stdin.isatty():
            self._context.note(f"{text}:")
            for number, one in enumerate(offered, 1):
                self._context.note(f"  {number}  {clean(str(one.get('text') or one.get('value')))}")
        for _ in range(RETYPES_MAX):
            names = ", ".join(clean(str(one.get("text") or one.get("value"))) for one in offered)
            typed = self._visible(f"Which one, 1 to {len(offered)}?", hint, about=f"{text}: {names}")
            if typed.isascii() and typed.isdigit() and 1 <= int(typed[:4]) <= len(offered):
                return str(offered[int(typed[:4]) - 1].get("value"))
            if not typed:
                break
        return None

    def _contact(self, text: str, proposal: object) -> str:
        proposed = f" [{clean(str(proposal))}]" if proposal else ""
        return self._visible(f"{text}{proposed}:", "use --register")

    def _attribute(self, text: str, ask: Mapping[str, object]) -> str:
        notes = [clean(str(ask[name])) for name in ("type", "pattern") if ask.get(name)]
        told = f" ({', '.join(notes)})" if notes else ""
        return self._visible(f"{text}{told}:", "use --attributes-file")

    # -- Where it comes from -------------------------------------------------------------------------------

    def _visible(self, text: str, hint: str, *, about: str = "") -> str:
        if not self._context.stdin.isatty():
            raise PersonNeededError(f"nobody is there to answer: {about or text}", hint=hint)
        print(text, end=" ", file=self._context.stderr, flush=True)
        try:
            typed = self._context.stdin.readline(SECRET_CHARS_MAX).strip()
            typed.encode()  # a terminal of no language leaves octets as surrogates
        except UnicodeError:
            raise LocalError(f"{text}: the answer is not text") from None
        return typed

    def _hidden(self, kind: type[S], text: str, hint: str) -> S:
        return _as_secret(kind, self._typed_hidden(text, hint), "answer")

    def _typed_hidden(self, text: str, hint: str) -> str:
        if not self._context.stdin.isatty():
            raise PersonNeededError(f"nobody is there to answer: {text}", hint=hint)
        try:
            return getpass.getpass(f"{text}: ", stream=self._context.stderr)
        except EOFError:
            raise PersonNeededError(f"no answer: {text}", hint=hint) from None

    def _first_line(self, path: str, what: str) -> str:
        return self._line_of_stdin(what) if path == "-" else _first_line_of(Path(path), what)

    def _line_of_stdin(self, what: str) -> str:
        return _line(self._context.stdin, what)

    def _wait_for_code(self, path: str) -> str:
        """Wait until the file is newer than at the start and unchanged between two looks (so that it is whole)."""
        deadline = self._monotonic() + CODE_WAIT_S_MAX
        self._context.note(f"waiting for the code in {clean(path)}")
        pipe: int | None = None
        before: tuple[int, ...] | None = None
        try:
            while self._monotonic() < deadline:
                if pipe is None and _is_pipe(path):
                    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                if pipe is not None:
                    if select.select([pipe], [], [], 0)[0] and (octets := os.read(pipe, CODE_BYTES_MAX)):
                        return octets.decode("utf-8-sig", errors="replace").strip()
                else:
                    now = _fingerprint(path)
                    if now is not None and now != self._seen and now == before:
                        self._seen = now
                        return _first_line_of(Path(path), "code file")
                    before = now
                self._sleep(POLL_S)
        finally:
            if pipe is not None:
                os.close(pipe)
        raise PersonNeededError(
            f"no new code came into {path} within {CODE_WAIT_S_MAX:.0f} s", hint="sign in again to have one sent"
        )


# -- Reading -----------------------------------------------------------------------------------------------


def read_argument_from_stdin(context: Context, what: str) -> str:
    """Return the first line of standard input, for an argument that was given as ``-``.

    Raises:
        LocalError: there is none, or it is longer than ``SECRET_CHARS_MAX`` characters.
    """
    return _line(context.stdin, what)


def read_attributes(context: Context, path: str) -> dict[str, JSON]:
    """Return the JSON object of ``--attributes-file``: names and texts; numbers and booleans count as text.

    Raises:
        LocalError: it cannot be read, or is not such an object.
    """
    try:
        if path == "-":
            text = context.stdin.read(ATTRIBUTES_CHARS_MAX + 1).removeprefix("\ufeff")
        else:
            with Path(path).open(encoding="utf-8-sig") as file:
                text = file.read(ATTRIBUTES_CHARS_MAX + 1)
    except UnicodeDecodeError:
        raise LocalError(f"attributes file {path} is not UTF-8 text") from None
    except OSError as exc:
        raise LocalError(f"attributes file {path} cannot be read: {exc.strerror}") from exc
    try:
        found = json.loads(text) if len(text) <= ATTRIBUTES_CHARS_MAX else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise LocalError(f"attributes file {path} does not hold one JSON object", hint='as in {"displayName": "Ann"}')
    values: dict[str, JSON] = {}
    for name, value in found.items():
        if isinstance(value, bool):
            values[name] = "true" if value else "false"
        elif isinstance(value, str | int) and value != "":
            values[name] = str(value)
        else:
            raise LocalError(f"attributes file {path}: the value of {clean(name)} is neither text nor number")
    return values


def _place(path: str) -> str:
    return "standard input" if path == "-" else path


def _line(stream: TextIO, what: str) -> str:
    try:
        line = stream.readline(SECRET_CHARS_MAX + 2)
        line.encode()
    except UnicodeError:
        raise LocalError(f"{what}: standard input is not text") from None
    line = line.removeprefix("\ufeff").rstrip("\r\n")
    if not line:
        raise LocalError(f"{what}: standard input has no (further) line")
    if len(line) > SECRET_CHARS_MAX:
        raise LocalError(f"{what}: longer than {SECRET_CHARS_MAX} characters")
    return line


def _first_line_of(path: Path, what: str) -> str:
    try:
        with path.open(encoding="utf-8-sig") as file:  # some editors begin a file with a byte order mark
            line = file.readline(SECRET_CHARS_MAX + 2).rstrip("\r\n")
    except UnicodeDecodeError:
        raise LocalError(f"{what} {path} is not UTF-8 text") from None
    except OSError as exc:
        raise LocalError(f"{what} {path} cannot be read: {exc.strerror}") from exc
    if not line:
        raise LocalError(f"{what} {path}: its first line is empty")
    if len(line) > SECRET_CHARS_MAX:
        raise LocalError(f"{what} {path}: its first line is longer than {SECRET_CHARS_MAX} characters")
    return line


def _as_secret(kind: type[S], value: str, what: str) -> S:
    try:
        return kind(value)
    except ValueError:
        raise LocalError(f"the {what} is empty or too long") from None


def _output_of(command: str) -> str:
    """Run a command without a shell and return what it printed, stripped; its errors go to our standard error."""
    try:
        words = shlex.split(command)
    except ValueError:
        raise UsageError("--otp-command: a quotation mark is not closed") from None
    if not words:
        raise UsageError("--otp-command is empty")
    name = clean(words[0])
    try:
        # S603: the words are the person's own, and no shell interprets them
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:  # noqa: S603
            assert process.stdout is not None
            try:
                octets = _read_within(process.stdout.fileno(), CODE_WAIT_S_MAX)
                status = process.wait(timeout=CODE_WAIT_S_MAX if len(octets) <= CODE_BYTES_MAX else 0)
            except subprocess.TimeoutExpired:
                raise LocalError(f"--otp-command: {name} printed too much or ran for too long") from None
            finally:
                process.kill()  # harmless when it has ended; else it must not run on
    except OSError as exc:
        message = f"--otp-command: {name} cannot be run: {exc.strerror}"
        raise LocalError(message, hint="name a program that is there after --otp-command") from exc
    if status != 0:
        raise LocalError(f"--otp-command: {name} failed with status {status}")
    return octets.decode("utf-8-sig", errors="replace").strip()


def _read_within(descriptor: int, timeout_s: float) -> bytes:
    """Read to the end, at most one byte more than a code may have.

    Raises:
        subprocess.TimeoutExpired: the end did not come in time.
    """
    deadline = time.monotonic() + timeout_s
    octets = b""
    while len(octets) <= CODE_BYTES_MAX:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise subprocess.TimeoutExpired("", timeout_s)
        part = os.read(descriptor, CODE_BYTES_MAX + 1)
        if not part:
            break
        octets += part
    return octets


def _is_pipe(path: str) -> bool:
    try:
        return stat.S_ISFIFO(Path(path).stat().st_mode)
    except OSError:
        return False


def _fingerprint(path: str | None) -> tuple[int, ...] | None:
    """Return numbers that change when the file is written again; None while it is missing or empty."""
    try:
        status = Path(path or "").stat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        return None
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
