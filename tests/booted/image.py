"""The Debian root that is booted, and the wheels that go into it: made once, kept below ``build/booted``.

``make clean`` removes them. What needs the network happens here; the booted machine has none.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "booted"
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "python3",
    "python3-venv",
    "mosquitto",
    "mosquitto-clients",
    "iproute2",
    "faketime",
    "sudo",
    "curl",
    "ca-certificates",
)
NEEDED = {"systemd-nspawn": "systemd-container", "debootstrap": "debootstrap", "unshare": "util-linux"}
PYTHON = {"bookworm": "3.11", "trixie": "3.13"}
MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}


class ImageError(Exception):
    """The root cannot be made here; the text says why."""


def host_arch() -> str:
    """Return this machine's architecture, the Debian way."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def check_tools(arch: str) -> None:
    """Raise ImageError early for tools whose absence would fail late."""
    if os.geteuid() != 0:
        raise ImageError("this needs root: sudo make test-booted")
    packages = {package for tool, package in NEEDED.items() if shutil.which(tool) is None}
    if arch != host_arch():
        if shutil.which(f"qemu-{MACHINE[arch]}-static") is None:
            packages.add("qemu-user-static")
        elif not _emulates(arch):
            raise ImageError(f"the kernel does not run {arch} programs: start systemd-binfmt or mount binfmt_misc")
    if packages:
        raise ImageError(f"apt-get install {' '.join(sorted(packages))}")


def _emulates(arch: str) -> bool:
    registered = Path("/proc/sys/fs/binfmt_misc") / f"qemu-{MACHINE[arch]}"
    if registered.exists():
        return True
    # A machine that was not booted by systemd: mount and register as systemd-binfmt would (flag F: opened now, so
    # that the emulator need not be inside the root).
    subprocess.run(["mount", "-t", "binfmt_misc", "none", "/proc/sys/fs/binfmt_misc"], check=False, capture_output=True)
    for line in _binfmt_lines(arch):
        try:
            Path("/proc/sys/fs/binfmt_misc/register").write_text(line)
        except OSError:
            continue
    return registered.exists()


def _binfmt_lines(arch: str) -> list[str]:
    file = Path("/usr/lib/binfmt.d") / f"qemu-{MACHINE[arch]}.conf"
    if file.exists():
        return [line for line in file.read_text().splitlines() if line.startswith(":")]
    debian = Path("/usr/share/binfmts") / f"qemu-{MACHINE[arch]}"
    if not debian.exists():
        return []
    values = dict(line.split(" ", 1) for line in debian.read_text().splitlines() if " " in line)
    name, offset = f"qemu-{MACHINE[arch]}", values.get("offset", "0")
    return [f":{name}:M:{offset}:{values['magic']}:{values['mask']}:{values['interpreter']}:OCPF"]


def base_root(suite: str, arch: str, *, kind: str = "root", packages: Sequence[str] = PACKAGES) -> Path:
    """Return the directory of a fresh Debian root of this suite and architecture; made where it is missing."""
    root = CACHE / f"{kind}-{suite}-{arch}"
    if not root.exists():
        print(f"making a Debian {suite} root for {arch} (once)", flush=True)
        draft = CACHE / f"draft-{kind}-{suite}-{arch}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.parent.mkdir(parents=True, exist_ok=True)
        log = CACHE / f"debootstrap-{kind}-{suite}-{arch}.log"
        command = ["debootstrap", "--variant=minbase", f"--arch={arch}", f"--include={','.join(packages)}"]
        with log.open("w") as output:
            done = subprocess.run(
                [*command, suite, str(draft)],  # from debootstrap's own mirror
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        if done.returncode != 0:
            raise ImageError(f"debootstrap failed; see {log}")
        draft.rename(root)
    return root


def wheels(suite: str, arch: str) -> Path:
    """Return a directory with this checkout's wheel, built now, and with all that it depends on."""
    place = CACHE / f"wheels-{suite}-{arch}"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    for old in place.glob("token_relay-*.whl"):
        old.unlink()
    _pip([*pip, "wheel", "--no-deps", "--wheel-dir", str(place), str(ROOT)])
    mark, wanted = place / "constraints.txt", (ROOT / "constraints.txt").read_text()
    if not mark.exists() or mark.read_text() != wanted:
        version = PYTHON[suite]
        tags = [f"manylinux_2_{minor}_{MACHINE[arch]}" for minor in (17, 24, 26, 27, 28, 31, 34, 35, 36)]
        tags += [f"manylinux2014_{MACHINE[arch]}"]
        (wheel,) = place.glob("token_relay-*.whl")
        _pip(
            [*pip, "download", "--only-binary=:all:", "--python-version", version, "--implementation", "cp"]
            + [part for tag in tags for part in ("--platform", tag)]
            + ["--constraint", str(ROOT / "constraints.txt"), "--dest", str(place), str(wheel)]
        )
        mark.write_text(wanted)
    return place


def program(root: Path) -> list[str]:
    """Return the command that runs the program of a machine's wheel on the host; the checkout may have changed."""
    (wheel,) = (root / "wheels").glob("token_relay-*.whl")
    place = root.parent / "program"
    shutil.rmtree(place, ignore_errors=True)
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(place)
    return ["env", f"PYTHONPATH={place}", sys.executable, "-P", "-m", "token_relay.cli"]


def _pip(command: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPYCACHEPREFIX"}
    done = subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment
    )
    if done.returncode != 0:
        raise ImageError("pip: " + "\n".join(done.stderr.strip().splitlines()[-3:]))
