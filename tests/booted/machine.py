"""One booted machine: a copy of the root, systemd as PID 1 in systemd-nspawn, a network of its own with nothing in it.

The network namespace is made by us and outlives a reboot, so that something which stands for "the world outside" can
run in it all the time. The machine sees a cgroup tree of the unified kind, also on a host that has the older one: it
is mounted in a mount namespace that ends with the machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

BOOT_S_MAX = 60.0
REBOOT_CODE = 133  # systemd-nspawn(1): --keep-unit leaves the second boot to us
START = """\
set -eu
mount --make-rprivate /
if [ "$(stat -fc %T /sys/fs/cgroup)" != cgroup2fs ]; then
    umount -l /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
mkdir -p "/sys/fs/cgroup/$1"
echo $$ > "/sys/fs/cgroup/$1/cgroup.procs"
exec systemd-nspawn --quiet --directory="$2" --machine="$1" --register=no --keep-unit --boot --console=pipe \\
    --network-namespace-path="$3" --system-call-filter=bpf --resolv-conf=off --timezone=off --link-journal=no
"""


class MachineError(Exception):
    """The machine did not do what it was told; the text says what."""


class Ran:
    """What a command in the machine did."""

    def __init__(self, command: str, code: int, out: str, err: str) -> None:
        self.command, self.code, self.out, self.err = command, code, out, err

    @property
    def text(self) -> str:
        """Both outputs."""
        return self.out + self.err

    def __repr__(self) -> str:
        return f"{self.command!r} ended with {self.code}: {self.text.strip()[-600:]}"


class Machine:
    """Boots, runs commands, reboots, and leaves nothing behind."""

    def __init__(self, base: Path, place: Path, *, slowness: float = 1.0) -> None:
        self.root = place
        self.name = f"tr-booted-{os.getpid()}"
        self.slowness = slowness  # an emulated machine takes so many times longer
        self._base = base
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._network: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def prepare(self) -> None:
        """Copy the root, and make the network."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", "--reflink=auto", str(self._base), str(self.root)], check=True)
        for name in ("etc/machine-id", "etc/hostname"):
            (self.root / name).unlink(missing_ok=True)
        (self.root / "etc/hostname").write_text("pi\n")
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost pi\n::1 localhost\n")
        self._network = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up; exec sleep infinity"], stdin=subprocess.DEVNULL
        )
        self._wait(lambda: self.outside("ip", "-o", "link", "show", "lo", check=False).out.count("UP") > 0, "network")

    def boot(self) -> float:
        """Boot; return the seconds until systemd has started everything."""
        began = time.monotonic()
        log = (self.root.parent / "nspawn.log").open("wb")
        self._nspawn = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", START, "sh", self.name, str(self.root), self._network_path],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        self._wait_for_leader()
        return time.monotonic() - began

    def reboot(self) -> None:
        """Reboot, in good order, and wait until everything is up again."""
        assert self._nspawn is not None
        self.run("systemctl reboot", check=False)
        code = self._nspawn.wait(BOOT_S_MAX * self.slowness)
        if code != REBOOT_CODE:
            raise MachineError(f"systemd-nspawn ended with {code} instead of a reboot")
        self.boot()

    def stop(self) -> None:
        """End the machine, its network, and its files; also after a failure."""
        for process in (self._nspawn, self._network):
            if process is None or process.poll() is not None:
                continue
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                if self._leader and process is self._nspawn:
                    os.kill(self._leader, signal.SIGKILL)
                process.kill()
                process.wait()
        self._remove_cgroup()
        with contextlib.suppress(OSError):  # nspawn leaves it where /run is no tmpfs
            Path("/run/systemd/nspawn/propagate", self.name).rmdir()

    def remove(self) -> None:
        """Remove the copy of the root, and what lies beside it."""
        shutil.rmtree(self.root.parent, ignore_errors=True)

    def run(
        self,
        command: str,
        *,
        user: str = "",
        check: bool = True,
        text: str = "",
        timeout_s: float = 90.0,
        environment: Mapping[str, str] | None = None,
    ) -> Ran:
        """Run a shell command in the machine, as root or ``user``.

        Raises:
            MachineError: ``check`` and it failed, or it did not end in time.
        """
        inner = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"] if user else []
        home = f"/home/{user}" if user else "/root"
        words = ["nsenter", "-t", str(self._leader), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "env", "-i"]
        words += ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", f"HOME={home}", "LANG=C.UTF-8"]
        words += [f"{name}={value}" for name, value in (environment or {}).items()]
        return self._ran([*words, *inner, "sh", "-c", command], command, check, text, timeout_s * self.slowness)

    def outside(self, *command: str, check: bool = True) -> Ran:
        """Run a host's program in the machine's network."""
        words = ["nsenter", f"--net={self._network_path}", *command]
        return self._ran(words, " ".join(command), check, "", 30.0)

    def outside_process(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a host's program in the machine's network; the caller ends it."""
        return subprocess.Popen(
            ["nsenter", f"--net={self._network_path}", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def is_emulated(self) -> bool:
        """Whether qemu-user emulates the machine's processor."""
        return self.slowness > 1

    @property
    def _network_path(self) -> str:
        assert self._network is not None
        return f"/proc/{self._network.pid}/ns/net"

    def _ran(self, words: list[str], command: str, check: bool, text: str, timeout_s: float) -> Ran:
        try:
            done = subprocess.run(words, check=False, input=text, capture_output=True, text=True, timeout=timeout_s)
        except subprocess.TimeoutExpired as exc:
            raise MachineError(f"{command!r} did not end within {timeout_s:.0f} s") from exc
        ran = Ran(command, done.returncode, done.stdout, done.stderr)
        if check and ran.code != 0:
            raise MachineError(repr(ran))
        return ran

    def _wait_for_leader(self) -> None:
        def found() -> bool:
            assert self._nspawn is not None
            if self._nspawn.poll() is not None:
                log = (self.root.parent / "nspawn.log").read_text(errors="replace")
                raise MachineError(f"systemd-nspawn ended with {self._nspawn.returncode}: {log.strip()[-500:]}")
            leader = _first_in_its_own_namespace(self._nspawn.pid)
            if leader == 0:
                return False
            self._leader = leader
            return self.run("systemctl is-system-running", check=False).out.strip() in ("running", "degraded")

        self._wait(found, "boot", BOOT_S_MAX * self.slowness)

    def _wait(self, is_so: object, what: str, seconds: float = 10.0) -> None:
        assert callable(is_so)
        end = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > end:
                raise MachineError(f"{what}: not within {seconds:.0f} s")
            time.sleep(0.1)

    def _remove_cgroup(self) -> None:
        """Remove the machine's cgroups, and with them whatever still runs there."""
        for tree in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
            top = tree / self.name
            if not top.is_dir():
                continue
            with contextlib.suppress(OSError):
                (top / "cgroup.kill").write_text("1")
            self._wait(lambda top=top: _is_removed(top), f"{top} is empty")


def _is_removed(top: Path) -> bool:
    """Remove a tree of cgroups from its leaves; False while somebody is in it."""
    try:
        for directory in sorted((path for path in top.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts)):
            directory.rmdir()
        top.rmdir()
    except OSError:
        return not top.exists()
    return True


def _first_in_its_own_namespace(parent: int) -> int:
    """Return the child of nspawn that is PID 1 inside, or 0."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for child in children:
            status = Path(f"/proc/{child}/status").read_text()
            (line,) = (line for line in status.splitlines() if line.startswith("NSpid:"))
            if line.split()[-1] == "1" and len(line.split()) > 2:
                return int(child)
    except OSError:
        pass
    return 0
