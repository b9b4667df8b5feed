"""``vault rekey``: puts the vault under another key, and names that key in the configuration.

The order makes it safe against a power cut: write the new key, the copy of the vault under it, and the configuration;
let the copy take over; remove the old key file. :mod:`token_relay.vault.rekey` says what a start does after each step.
Where the configuration cannot be written here (a service's lies in ``/etc``), the copy waits until a person writes
it: the next start with the new key ends the change.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from token_relay.host.atomic_files import remove_drafts, write_atomic
from token_relay.host.config import MODELS, AgentConfig, Kind, VaultConfig
from token_relay.host.config_file import CONFIG_BYTES_MAX, check_config, read_own_text
from token_relay.host.home import KEY_FILE, VAULT_FILE, key_source
from token_relay.protocol.errors import ConfigError, VaultError
from token_relay.protocol.secret import Password, PrivateKey
from token_relay.vault import rekey as copies
from token_relay.vault.files import check_directory
from token_relay.vault.keys import (
    MEMORY_BYTES_DEFAULT,
    PASSES_DEFAULT,
    KeyFile,
    KeySource,
    PassphraseKey,
    SystemdCredential,
    key_from,
)

Setting = Literal["key_file", "passphrase_file", "credential"]


@dataclass(frozen=True, slots=True)
class ToFile:
    """A key file; ``path`` None chooses a free name in the home."""

    path: Path | None = None


@dataclass(frozen=True, slots=True)
class ToPassphrase:
    """A passphrase from a file that the agent will read at each start."""

    file: Path
    passphrase: Password
    memory_bytes: int = MEMORY_BYTES_DEFAULT


@dataclass(frozen=True, slots=True)
class ToCredential:
    """A systemd credential; ``content`` None reads it as the service will, from its credentials' directory."""

    name: str
    content: bytes | None = None


Target = ToFile | ToPassphrase | ToCredential


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """The result. ``line`` is the setting to write if ``is_pending``; ``old_key`` is a key file that is left.

    ``erased`` are key files that an earlier change, which something ended half-way, had left.
    """

    describes: str
    line: str
    is_pending: bool
    old_key: Path | None = None
    erased: tuple[Path, ...] = ()


async def rekey(home: Path, config_path: Path, target: Target, environment: Mapping[str, str]) -> Rekeyed:
    """Move the vault of ``home`` to another key. The agent must not run.

    Raises:
        ConfigError, VaultError, LocalError: it was not done; the vault opens with the key it had.
    """
    text, config = _read_config(config_path)
    check_directory(home)
    source, vault_path = key_source(home, config.vault, environment), home / VAULT_FILE
    remove_drafts(config_path.parent, config_path.name)
    erased: list[Path] = []
    vault = copies.open_in_force(vault_path, source, erased.append)
    old_key = _old_key(home, config.vault)
    at_home = old_key if old_key is not None and old_key.parent == home else None
    left = None if at_home else old_key  # it may serve another vault too, so its owner decides whether to remove it
    try:
        copies.discard(home)
        new_source, setting, value = _make_key(home, target, environment, at_home)
        line = f"{setting} = {_toml(value)}" if value is not None else f"# {setting} ="
        key = _load(new_source)
        await copies.copy_under(vault, home, key)
        new_text = with_setting(text, setting, value)
        if not _is_ours(config_path):
            return Rekeyed(_describe(new_source), line, is_pending=True, old_key=left, erased=tuple(erased))
        _check(config_path, config, new_text, home)
        write_atomic(config_path, new_text.encode(), mode=config_path.stat().st_mode & 0o777)
        copies.take_over(home, vault_path)
    finally:
        await vault.close()
    copies.forget_keys(home, key, keep_parameters=isinstance(new_source, PassphraseKey))
    return Rekeyed(_describe(new_source), line, is_pending=False, old_key=left, erased=tuple(erased))


def with_setting(text: str, setting: Setting, value: str | None) -> str:
    """Return a configuration in which ``[vault]`` names this key and no other; all other lines stay as they are.

    ``value`` None leaves all three out: the key is vault.key in the home.
    """
    lines, shown = text.split("\n"), "" if value is None else f"{setting} = {_toml(value)}"
    begin = next((at for at, line in enumerate(lines) if re.fullmatch(r"\s*\[vault\]\s*(#.*)?", line)), None)
    if begin is None:
        return text if value is None else text.rstrip("\n") + f"\n\n[vault]\n{shown}\n"
    end = next((at for at in range(begin + 1, len(lines)) if re.match(r"\s*\[", lines[at])), len(lines))
    place = None
    for at in range(begin + 1, end):
        found = re.match(r"\s*(#\s*)?(key_file|passphrase_file|credential)\s*=", lines[at])
        if found is None:
            continue
        if found[2] == setting and place is None and value is not None:
            place = at
            lines[at] = shown
        elif not found[1]:
            lines[at] = f"# {lines[at]}"
    if place is None and value is not None:
        lines.insert(begin + 1, shown)
    return "\n".join(lines)


def _toml(text: str) -> str:
    if not text.isprintable() or set(text) & {'"', "\\"}:
        raise ConfigError(
            f"{text!a} cannot stand in the configuration",
            hint="choose a name without quotes, as in --key-file vault-2.key",
        )
    return f'"{text}"'


def _read_config(path: Path) -> tuple[str, AgentConfig]:
    text = read_own_text(path, CONFIG_BYTES_MAX, what="configuration", forbidden=0o022)
    problems: list[str] = []
    for kind in _kinds(text):
        found = check_config(MODELS[kind], text, path.parent.absolute())
        if not isinstance(found, tuple):
            return text, found
        problems = [problem.in_file(str(path)) for problem in found]
    raise ConfigError("\n".join(problems))


def _kinds(text: str) -> tuple[Kind, ...]:
    """Return the kinds of agent that the text may configure; errors are those of the last one."""
    return ("companion", "phone") if re.search(r"(?m)^\s*\[provider\]", text) else ("phone", "companion")


def _check(path: Path, before: AgentConfig, text: str, home: Path) -> None:
    """Refuse a new text that would change anything but the vault's key, because the table is written unusually."""
    found = check_config(type(before), text, path.parent.absolute())
    is_same = not isinstance(found, tuple) and found.model_copy(update={"vault": before.vault}) == before
    if not is_same:
        copies.discard(home)
        raise ConfigError(f"cannot edit [vault] in {path}", hint="write that table as `init` does")


def _is_ours(config_path: Path) -> bool:
    return os.access(config_path, os.W_OK) and os.access(config_path.parent, os.W_OK)


def _make_key(
    home: Path, target: Target, environment: Mapping[str, str], old_key: Path | None
) -> tuple[KeySource | PrivateKey, Setting, str | None]:
    noted = [] if old_key is None else [old_key]
    if not isinstance(target, ToFile):
        copies.begin(home, *noted)
    match target:
        case ToFile(path=path):
            path = copies.free_key_file(home) if path is None else path.absolute()
            if os.path.lexists(path):  # before it is noted: it is another's
                raise VaultError(f"{path} exists already")
            copies.begin(home, path, *noted)
            key_file = KeyFile(path)
            key_file.create()
            return key_file, "key_file", None if path == home / KEY_FILE else str(path)
        case ToPassphrase(file=file, passphrase=passphrase, memory_bytes=memory_bytes):
            derived = PassphraseKey(home / copies.COPY_PARAMETERS, passphrase)
            derived.create(passes=PASSES_DEFAULT, memory_bytes=memory_bytes)
            return derived, "passphrase_file", str(file.absolute())
        case ToCredential(name=name, content=None):
            return SystemdCredential.from_environment(name, environment), "credential", name
        case ToCredential(name=name, content=content):
            SystemdCredential(home, name)  # for the name's sake
            assert content is not None, "matched above"
            return key_from(content, "what was given"), "credential", name


def _load(source: KeySource | PrivateKey) -> PrivateKey:
    return source if isinstance(source, PrivateKey) else source.load()


def _describe(source: KeySource | PrivateKey) -> str:
    return SystemdCredential(Path("/"), "x").describe() if isinstance(source, PrivateKey) else source.describe()


def _old_key(home: Path, before: VaultConfig) -> Path | None:
    """Return the file of the old key if it may be removed; a passphrase's file never is."""
    if before.credential is not None or before.passphrase_file is not None:
        return None
    return before.key_file or home / KEY_FILE
