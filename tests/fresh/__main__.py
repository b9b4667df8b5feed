"""`make test-fresh`: a clone of this checkout on a bare Debian, and the README's two commands in it.

The root holds what the README asks for, and systemd: git, make, Python and its venv module. It is entered with chroot
in namespaces of its own for mounts and processes, so that nothing is left behind; the network is the host's. As root
the commands are ``make demo`` and ``make test``, with CI=true: nothing may be left out. As an ordinary user, without
sudo, they are ``make demo`` and ``make quick``.

What this machine needs to reach its package registries goes along: the settings of pip and npm in the environment,
proxies, certificates, and the files that these name.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.booted.image import CACHE, PYTHON, ROOT, ImageError, base_root, host_arch

BARE = ("systemd", "systemd-sysv", "git", "make", "python3", "python3-venv")
NEEDED = {"debootstrap": "debootstrap", "unshare": "util-linux"}
ALONG = re.compile(r"PIP_.+|npm_config_.+|NODE_EXTRA_CA_CERTS|SSL_CERT_FILE|(?:https?|no)_proxy", re.IGNORECASE)
USER = "somebody"
PLACE = "token-relay"
# The shell stays as process 1: it takes in orphans. What is mounted ends with the namespace.
ENTER = """\
set -eu
root=$1 userspec=$2 directory=$3; shift 3
mount --make-rprivate /
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -t tmpfs tmpfs "$root/run"
for path in $SHARED; do
    if [ -d "$path" ]; then mkdir -p "$root$path"; else mkdir -p "$root${path%/*}"; : >> "$root$path"; fi
    mount --bind "$path" "$root$path"
    mount -o remount,bind,ro "$root$path"
done
set +e
chroot --userspec="$userspec" "$root" env -i "$@" sh -c 'cd "$0" && eval "$RUN"' "$directory"
exit $?
"""


def main() -> int:
    """Run; return the exit code."""
    parser = argparse.ArgumentParser(prog="make test-fresh", description=__doc__)
    parser.add_argument("--suite", choices=sorted(PYTHON), default="bookworm", help="Debian's suite")
    parser.add_argument("--as-user", action="store_true", help="an ordinary user, without sudo")
    parser.add_argument("--run", action="append", metavar="COMMAND", help="instead of the two; may be repeated")
    parser.add_argument("--keep", action="store_true", help="leave the root in build/booted/fresh-…")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _check_tools()
        base = base_root(args.suite, host_arch(), kind="bare", packages=BARE)
    except ImageError as exc:
        print(f"cannot make a fresh machine here: {exc}")
        return 1
    root = CACHE / f"fresh-{args.suite}-{os.getpid()}"
    commands = args.run or ["make demo", "make quick" if args.as_user else "make test"]
    try:
        return _run(root, base, commands, user=USER if args.as_user else "root")
    finally:
        if args.keep:
            print(f"kept: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)


def _check_tools() -> None:
    if os.geteuid() != 0:
        raise ImageError("this needs root: sudo make test-fresh")
    if packages := sorted(package for tool, package in NEEDED.items() if shutil.which(tool) is None):
        raise ImageError(f"apt-get install {' '.join(packages)}")


def _run(root: Path, base: Path, commands: list[str], *, user: str) -> int:
    subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(root)], check=True)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
    home = "/root"
    if user != "root":
        home = f"/home/{user}"
        subprocess.run(["chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", user], check=True)
    _clone(root / home.lstrip("/") / PLACE)
    if user != "root":
        subprocess.run(["chroot", root, "chown", "-R", f"{user}:", f"{home}/{PLACE}"], check=True)
    done = []
    for command in commands:
        print(f"== {command}, as {user} on {root.name}", flush=True)
        began = time.monotonic()
        code = _enter(root, command, user=user, home=home)
        done.append(f"{code:>4}  {time.monotonic() - began:6.0f} s  {command}")
        if code != 0:
            break
    print("\n".join(["", "exit  seconds  command", *done]))
    return int(code != 0)


def _enter(root: Path, command: str, *, user: str, home: str) -> int:
    """Run a command in the root; return its exit code."""
    along = {name: value for name, value in os.environ.items() if ALONG.fullmatch(name)}
    shared = {
        part for value in along.values() for part in value.split() if part.startswith("/") and Path(part).exists()
    }
    environment = {
        "HOME": home,
        "USER": user,
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin" + (":/usr/local/sbin:/usr/sbin:/sbin" if user == "root" else ""),
        "RUN": command,
        **({"CI": "true"} if user == "root" else {}),
        **along,
    }
    words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh", str(root), f"{user}:"]
    words += [f"{home}/{PLACE}", *(f"{name}={value}" for name, value in environment.items())]
    return subprocess.run(
        words,
        check=False,
        stdin=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "SHARED": " ".join(sorted(shared))},
    ).returncode


def _clone(place: Path) -> None:
    """Clone the checkout, with what is changed in it and not yet committed."""
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(place)], check=True)
    subprocess.run(["git", "-C", str(place), "remote", "remove", "origin"], check=True)
    listed = [
        *_git("diff", "--name-only", "-z", "HEAD"),
        *_git("ls-files", "-z", "--others", "--exclude-standard"),
    ]
    for name in listed:
        source, target = ROOT / name, place / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
        else:
            target.unlink(missing_ok=True)


def _git(*words: str) -> list[str]:
    ran = subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in ran.stdout.split("\0") if name]


if __name__ == "__main__":
    sys.exit(main())
