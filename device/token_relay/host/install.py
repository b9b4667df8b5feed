"""Installs the units and their files in the system, or units for one user's own manager, and removes them again.

The program itself is there already: it lies in an environment of its own, normally ``/opt/token-relay``, made by
``venv`` and ``pip``. Units, pages and completion came with the wheel (``share`` of that environment) or lie in the
checkout. Everything goes below ``root``, which is ``/`` or the directory of a package that is being built; on a real
system, :func:`tell_system` then runs the service manager's tools. A user's units go into one directory and bring
nothing else with them: homes and configuration are those of ``init``.

Invariants:

* *a second run changes nothing*: a file is written only where its content or mode differs.
* *what a person wrote stays*: configuration is written where there is none, and removed only if it is unchanged;
  data, credentials and the group always stay.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from token_relay.host.atomic_files import make_directory, write_atomic
from token_relay.host.config import Kind
from token_relay.host.config_template import template
from token_relay.protocol.errors import ConfigError, LocalError

PROGRAM = "/opt/token-relay"  # as it stands in the units
COMMAND = "token-relay"
HOMES = frozenset({"home", "root"})  # what ProtectHome= hides
AGENTS: tuple[Kind, ...] = ("companion", "phone")
SERVICES = ("token-relay-companion.service", "token-relay-phone.service", "token-relay-sandbox.service")
SOCKETS = ("token-relay-companion.socket", "token-relay-companion-control.socket")
CONFIGURATION = Path("etc/token-relay")
SHARED = Path("share/token-relay/systemd")
COMPLETION = ("bash-completion/completions/token-relay", "zsh/site-functions/_token-relay")
POLICY = """\
# Which local programs may ask the companion for access tokens. Root and the agent itself always may; everybody else
# needs a rule here, and membership in the group token-relay to reach the socket. After a change:
#     systemctl reload token-relay-companion
# A refusal names the caller's uid and the lines to add.

# [[allow]]
# uid = 1001
# scopes = ["openid", "profile"]
"""


@dataclass(frozen=True, slots=True)
class Places:
    """Where things go: ``root`` is ``/`` or a package's directory, the others as the running system will see them."""

    root: Path = Path("/")
    prefix: Path = Path("/usr/local")
    program: Path = Path(PROGRAM)

    def under_prefix(self, *parts: str) -> Path:
        """Return a path below the prefix, inside the root."""
        return self.root.joinpath(*self.prefix.parts[1:], *parts)


@dataclass(frozen=True, slots=True)
class File:
    """One file to install: content and mode. ``is_kept``: a file that is there already stays."""

    path: Path
    content: bytes
    mode: int = 0o644
    is_kept: bool = False


def sources() -> Path:
    """Return the directory with the units: the checkout's, else the one that came with the wheel.

    A wheel's ``share`` lies above the modules, however pip was told to install it.

    Raises:
        ConfigError: neither is there.
    """
    above = Path(__file__).parents
    for place in (above[3] / "systemd", *(directory / SHARED for directory in above)):
        if (place / SERVICES[0]).is_file():
            return place
    raise ConfigError(
        f"the units are missing in {Path(sys.prefix) / SHARED}", hint="install the program from its wheel"
    )


def files(places: Places, units: Path) -> Iterator[File]:
    """Yield all that an installation consists of, apart from the link to the program."""
    for name in (*SERVICES, *SOCKETS):
        text = _run_from((units / name).read_text(), str(places.program))
        yield File(places.under_prefix("lib", "systemd", "system", name), text.encode())
    yield File(
        places.under_prefix("lib", "sysusers.d", "token-relay.conf"), (units / "token-relay.sysusers").read_bytes()
    )
    yield File(
        places.under_prefix("lib", "tmpfiles.d", "token-relay.conf"), (units / "token-relay.tmpfiles").read_bytes()
    )
    for example in sorted((units / "examples").iterdir()):
        yield File(
            places.under_prefix("share", "doc", "token-relay", "examples", example.name),
            example.read_bytes(),
        )
    for page in manual_pages(units):
        yield File(places.under_prefix("share", "man", f"man{page.suffix[1:]}", page.name), page.read_bytes())
    for script in COMPLETION:
        checkout = units.parent / "docs" / "completion" / Path(script).name
        source = checkout if checkout.is_file() else units.parents[1] / script
        yield File(places.under_prefix("share", script), source.read_bytes())
    for kind in AGENTS:
        yield File(
            places.root / CONFIGURATION / f"{kind}.toml", service_template(kind).encode(), mode=0o644, is_kept=True
        )
    yield File(places.root / CONFIGURATION / "policy.toml", POLICY.encode(), mode=0o644, is_kept=True)


def manual_pages(units: Path) -> list[Path]:
    """Return the manual pages: of the environment, or built in the checkout."""
    places = (units.parents[1] / "man" / "man1", units.parents[1] / "man" / "man5", units.parent / "docs" / "man")
    return sorted(page for place in places if place.is_dir() for page in place.glob("token-relay*.[15]"))


def user_files(directory: Path, program: Path, units: Path) -> Iterator[File]:
    """Yield the units of a user's own manager, to lie in ``directory``.

    Raises:
        ConfigError: a unit cannot name the program.
    """
    check_name(program)
    for name in SERVICES:
        yield File(directory / name, _run_from((units / "user" / name).read_text(), str(program)).encode())


def service_template(kind: Kind) -> str:
    """Return the commented configuration of a service; a person sets name, broker and, on a phone, the provider."""
    home = f"/var/lib/token-relay/{kind}"
    values: dict[str, str | int | bool] = {
        "broker.url": "mqtts://broker.invalid:8883",
        "broker.ca": f"{home}/ca.pem",
        "broker.cert": f"{home}/device.pem",
        "broker.key": f"{home}/device.key",
        "vault.credential": f"token-relay-{kind}",
        "name": kind,
    }
    if kind == "phone":
        values |= {"provider.url": "https://provider.invalid", "provider.client_id": "CLIENT-ID"}
    else:
        values |= {"token_api.policy_file": "/etc/token-relay/policy.toml"}
    return template(kind, values)


def _run_from(unit: str, program: str) -> str:
    """Put the program's place into a unit: words with a space in quotes, a percent sign twice. systemd.syntax(7)"""
    written = program.replace("%", "%%")
    quote = '"' if " " in written else ""
    return re.sub(rf"{PROGRAM}(\S*)", lambda found: f"{quote}{written}{found[1]}{quote}", unit)


def check_name(program: Path) -> None:
    """Refuse a program whose place has a character that means something in a unit.

    Raises:
        ConfigError: it has.
    """
    if not str(program).isprintable() or set(str(program)) & set("\"'\\$:;"):
        raise ConfigError(f"a unit cannot name {str(program)!a}", hint=f"install the program in {PROGRAM}")


def check_program(program: Path) -> None:
    """Refuse a program in a place where the services, which see no home, could not run it.

    Raises:
        ConfigError: it lies in a home, or a unit cannot name it.
    """
    check_name(program)
    if len(program.parts) > 1 and program.parts[1] in HOMES:
        raise ConfigError(
            f"the services cannot see {program}: homes are hidden from them",
            hint=f"install the program elsewhere, as in --program {PROGRAM}",
        )


# -- Doing it ----------------------------------------------------------------------------------------------


def install(places: Places, units: Path) -> list[Path]:
    """Bring every file and the link into place; return what changed.

    Raises:
        ConfigError: the services could not run the program where it lies.
        LocalError: a place cannot be written. Run it again after the cause is gone; correct files are left alone.
    """
    check_program(places.program)
    changed = write(files(places, units))
    link, target = places.under_prefix("bin", COMMAND), places.program / "bin" / COMMAND
    if not (link.is_symlink() and link.readlink() == target):
        make_directory(link.parent, mode=0o755)
        try:
            link.unlink(missing_ok=True)
            link.symlink_to(target)
        except OSError as exc:
            raise LocalError(f"cannot make {link}: {exc.strerror}", hint="use sudo") from exc
        changed.append(link)
    return changed


def write(wanted: Iterable[File]) -> list[Path]:
    """Write what is not there already; return what changed.

    Raises:
        LocalError: a place cannot be written.
    """
    changed: list[Path] = []
    for file in wanted:
        if not _is_there(file):
            make_directory(file.path.parent, mode=0o755)
            write_atomic(file.path, file.content, mode=file.mode)
            changed.append(file.path)
    return changed


def uninstall_user(directory: Path, program: Path, units: Path) -> list[Path]:
    """Remove a user's units and the links that ``systemctl --user enable`` made; return what was removed.

    Raises:
        LocalError: something cannot be removed.
    """
    found = [file.path for file in user_files(directory, program, units)]
    found += [directory / "default.target.wants" / name for name in SERVICES]
    removed = [path for path in found if path.is_symlink() or path.is_file()]
    try:
        for path in removed:
            path.unlink()
    except OSError as exc:
        raise LocalError(f"cannot remove {exc.filename}: {exc.strerror}") from exc
    return removed


def uninstall(places: Places, units: Path) -> tuple[list[Path], list[Path]]:
    """Remove what :func:`install` brought; return what was removed, and the configuration that was changed and stays.

    Raises:
        LocalError: something cannot be removed.
    """
    removed: list[Path] = []
    stays: list[Path] = []
    link = places.under_prefix("bin", COMMAND)
    try:
        if link.is_symlink() and link.readlink() == places.program / "bin" / COMMAND:
            link.unlink()
            removed.append(link)
        for file in files(places, units):
            if not file.path.exists():
                continue
            if file.is_kept and file.path.read_bytes() != file.content:
                stays.append(file.path)
                continue
            file.path.unlink()
            removed.append(file.path)
    except OSError as exc:
        raise LocalError(f"cannot remove {exc.filename}: {exc.strerror}", hint="use sudo") from exc
    for directory in (
        places.under_prefix("share", "doc", "token-relay", "examples"),
        places.under_prefix("share", "doc", "token-relay"),
        places.root / CONFIGURATION,
    ):
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
    return removed, stays


def _is_there(file: File) -> bool:
    if not file.path.is_file():
        return False
    return file.is_kept or (file.path.read_bytes() == file.content and file.path.stat().st_mode & 0o7777 == file.mode)


# -- The running system ------------------------------------------------------------------------------------

SETUP = (
    ("systemd-sysusers", "token-relay.conf"),
    ("systemd-tmpfiles", "--create", "token-relay.conf"),
    ("systemctl", "daemon-reload"),
)


def tell_system(commands: tuple[tuple[str, ...], ...], say: Callable[[str], object]) -> None:
    """Run the service manager's own tools. ``say`` reports one that is missing or fails; the rest still run."""
    for command in commands:
        program = shutil.which(command[0])
        if program is None:
            say(f"not run, since it is missing here: {' '.join(command)}")
            continue
        done = subprocess.run([program, *command[1:]], check=False, capture_output=True, text=True)  # noqa: S603
        if done.returncode != 0:
            say(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")


def is_booted(root: Path) -> bool:
    """Whether ``root`` belongs to a machine that systemd runs now. sd_booted(3)"""
    return root == Path("/") and Path("/run/systemd/system").is_dir()
