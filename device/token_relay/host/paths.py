"""Where an agent lives: its home, its sockets, its configuration file.

It imports only the standard library, since every subcommand starts here. The environment comes in as a mapping; only
the command line reads the real one. The order of precedence is always the same: what the person typed,
``TOKEN_RELAY_HOME``, ``TOKEN_RELAY_HOMES`` (a directory with a home for each kind), the service manager's variables
(``STATE_DIRECTORY`` and ``RUNTIME_DIRECTORY``, systemd.exec(5)), the user's own place (XDG Base Directory
Specification).

Nothing here creates anything; only :func:`config_file` looks at the disk.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from token_relay.protocol.errors import ConfigError

Kind = Literal["phone", "companion"]

SYSTEM_CONFIG_DIRECTORY = Path("/etc/token-relay")
SYSTEM_SOCKET_DIRECTORY = Path("/run/token-relay")  # one directory per kind inside

CONFIG_FILE = "config.toml"
CONTROL_SOCKET = "control.sock"
TOKEN_SOCKET = "token.sock"  # noqa: S105  # a file name

SOCKET_PATH_BYTES_MAX = 107  # unix(7): sun_path has 108 bytes, one of them for the terminating zero


def agent_home(kind: Kind, environment: Mapping[str, str], *, home: str | Path | None = None) -> Path:
    """Return the directory of the agent's configuration and vault; it may not exist yet.

    Raises:
        ConfigError: nothing in the environment says where a home could be.
    """
    if home is not None:
        return Path(home)
    if chosen := environment.get("TOKEN_RELAY_HOME"):
        return Path(chosen)
    if homes := environment.get("TOKEN_RELAY_HOMES"):
        return Path(homes) / kind
    if directories := environment.get("STATE_DIRECTORY"):
        return _first(directories)
    # The specification says that a relative XDG path is ignored.
    state = environment.get("XDG_STATE_HOME", "")
    if state.startswith("/"):
        return Path(state) / "token-relay" / kind
    user_home = environment.get("HOME", "")
    if user_home.startswith("/"):
        return Path(user_home) / ".local" / "state" / "token-relay" / kind
    raise ConfigError(f"no home for the {kind}: HOME is not set", hint="give --home DIRECTORY or set TOKEN_RELAY_HOME")


def socket_directory(
    kind: Kind,
    environment: Mapping[str, str],
    *,
    home: str | Path | None = None,
    socket: str | Path | None = None,
) -> Path:
    """Return the directory where a *running* agent puts its sockets; ``socket`` is the option ``--socket``."""
    if socket is not None:
        return Path(socket)
    if directories := environment.get("RUNTIME_DIRECTORY"):
        return _first(directories)
    return agent_home(kind, environment, home=home)


def search_directories(
    kind: Kind,
    environment: Mapping[str, str],
    *,
    home: str | Path | None = None,
    socket: str | Path | None = None,
) -> tuple[Path, ...]:
    """Return where a *client* looks for the agent's sockets, best first.

    A person who names a place (``--socket``, ``--home``, one of the variables) means only that agent: a command
    such as ``revoke`` must not fall through to the service of the machine because a test agent is down.
    """
    if socket is not None:
        return (Path(socket),)
    if home is not None or environment.get("TOKEN_RELAY_HOME") or environment.get("TOKEN_RELAY_HOMES"):
        return (agent_home(kind, environment, home=home),)
    found: list[Path] = []
    if directories := environment.get("RUNTIME_DIRECTORY"):  # a helper of the same unit, such as ExecStartPost=
        found.append(_first(directories))
    try:
        found.append(agent_home(kind, environment))
    except ConfigError:
        pass  # no HOME: a service's environment; the system place is left
    found.append(SYSTEM_SOCKET_DIRECTORY / kind)
    return tuple(dict.fromkeys(found))


def config_file(
    kind: Kind,
    environment: Mapping[str, str],
    *,
    home: str | Path | None = None,
    config: str | Path | None = None,
    system_directory: Path = SYSTEM_CONFIG_DIRECTORY,
) -> Path | None:
    """Return the configuration file: ``--config``, else the home's, else the machine's, else None.

    Raises:
        ConfigError: the named file is not there, or permissions hide one of the places. The latter does not fall
            through to the next place: an agent must not run with another's configuration by accident.
    """
    if config is not None:
        if not _is_file(Path(config)):
            raise ConfigError(f"no configuration file {config}")
        return Path(config)
    candidates = (agent_home(kind, environment, home=home) / CONFIG_FILE, system_directory / f"{kind}.toml")
    return next((candidate for candidate in candidates if _is_file(candidate)), None)


def with_path(advice: str, config: Path | None) -> str:
    """Return advice that speaks of ``config.toml`` with the whole path of that file."""
    return advice if config is None else advice.replace(CONFIG_FILE, str(config))


def check_socket_path(path: Path) -> Path:
    """Return ``path`` if the kernel can bind it.

    Raises:
        ConfigError: longer than 107 bytes (unix(7)); the kernel's own error does not say so.
    """
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_BYTES_MAX:
        raise ConfigError(
            f"socket path has {length} bytes, the limit is {SOCKET_PATH_BYTES_MAX}: {path}",
            hint="choose a shorter directory with --socket",
        )
    return path


def _first(directories: str) -> Path:
    """Return the first of systemd's colon-separated directories."""
    return Path(directories.split(":", 1)[0])


def _is_file(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise ConfigError(f"cannot look at {path}: {exc.strerror}", hint="use sudo, or another --home") from exc
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{path} is not a regular file")
    return True
