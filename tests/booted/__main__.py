"""`make test-booted`: prints a table of what was seen, exits 1 when something was not, leaves nothing behind.

The parts: ``story`` (installation to revocation), ``bad`` (what may be wrong, and the line in the journal that says
so), ``figures`` (memory, start, idle CPU). Not part of what every change must pass: it needs root, the network once,
and minutes.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import signal
import sys
from functools import partial

from tests.booted.bad_input import BadInput
from tests.booted.figures import Figures
from tests.booted.image import CACHE, PYTHON, ImageError, base_root, check_tools, host_arch, program, wheels
from tests.booted.machine import Machine, MachineError
from tests.booted.report import Report
from tests.booted.services import Services
from tests.booted.story import Story
from tests.booted.upkeep import Upkeep

EMULATED_SLOWNESS = 12.0  # qemu-user against the same program on the host's own processor, and room
PARTS = ("story", "bad", "figures")


def main() -> int:
    """Run; return the exit code."""
    parser = argparse.ArgumentParser(prog="make test-booted", description=__doc__)
    parser.add_argument("--arch", choices=("amd64", "arm64"), default=host_arch(), help="the machine's architecture")
    parser.add_argument("--suite", choices=sorted(PYTHON), default="bookworm", help="Debian's suite")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; may be repeated")
    parser.add_argument("--keep", action="store_true", help="leave the machine's files in build/booted/run-…")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `timeout` too is answered by cleaning up
    report = Report()
    try:
        check_tools(args.arch)
        base, packages = base_root(args.suite, args.arch), wheels(args.suite, args.arch)
    except ImageError as exc:
        print(f"cannot boot a machine here: {exc}")
        return 1
    is_emulated = args.arch != host_arch()
    machine = Machine(
        base, CACHE / f"run-{args.suite}-{args.arch}" / "root", slowness=EMULATED_SLOWNESS if is_emulated else 1.0
    )
    try:
        machine.prepare()
        shutil.copytree(packages, machine.root / "wheels")
        if not report.check("boots", lambda: f"{machine.boot():.1f} s until systemd is done, {args.suite} {args.arch}"):
            return report.summary()
        _run(machine, report, args.part or PARTS)
    except MachineError as exc:
        report.check("the machine stays up", partial(_again, exc))
    except KeyboardInterrupt:
        report.check("it ran to its end", partial(_again, MachineError("interrupted")))
    finally:
        machine.stop()
        if not args.keep:
            machine.remove()
    print(f"\nhost: Linux {platform.release()} {platform.machine()}{', emulated by qemu-user' if is_emulated else ''}")
    return report.summary()


def _run(machine: Machine, report: Report, parts: tuple[str, ...]) -> None:
    services = Services(machine)
    version = machine.run("systemctl --version | head -1; python3 -V; mosquitto -h | head -1", check=False).out
    report.note("versions", version)
    story = Story(services, report)
    if not story.install():
        return
    story.life()
    if "figures" in parts:
        Figures(services, report).take()
    if "bad" in parts:
        BadInput(services, report).all()
    if "story" in parts:
        Upkeep(services, report).all()
        story.blows()
        story.reboot(program(machine.root))


def _again(error: MachineError) -> str:
    raise error


if __name__ == "__main__":
    sys.exit(main())
