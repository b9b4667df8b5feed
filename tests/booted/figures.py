"""What the two agents cost while nothing happens, seen from inside the machine."""

from __future__ import annotations

from functools import partial

from tests.booted.report import Report
from tests.booted.services import AGENTS, Services

IDLE_S = 60


class Figures:
    """Memory, start to ready, CPU of a minute in which nothing happens."""

    def __init__(self, services: Services, report: Report) -> None:
        self.s = services
        self.report = report

    def take(self) -> None:
        """Start both anew, wait until they are connected, and measure."""
        self.report.check("figures: start to ready", self._start)
        self.report.check(f"figures: idle for {IDLE_S} s, connected", self._idle)

    def _start(self) -> str:
        found = []
        for kind in AGENTS:
            unit = f"token-relay-{kind}.service"
            times = []
            for _ in range(3):
                self.s.restart(kind)
                began = int(self.s.show(unit, "ExecMainStartTimestampMonotonic"))
                ready = int(self.s.show(unit, "ActiveEnterTimestampMonotonic"))
                times.append((ready - began) / 1e6)
            found.append(f"{kind} {' '.join(f'{seconds:.2f}' for seconds in times)} s")
        return "; ".join(found)

    def _idle(self) -> str:
        for kind in AGENTS:
            self.s.until(partial(self.s.is_connected, kind), f"{kind} connected", 60)
        pids = {kind: self.s.show(f"token-relay-{kind}.service", "MainPID") for kind in AGENTS}
        read = "; ".join(
            f"echo {kind} $(cut -d' ' -f14,15 /proc/{pid}/stat) $(grep -h ctxt /proc/{pid}/task/*/status | "
            f"awk '{{n+=$2}} END {{print n}}') $(awk '/^Rss|^Pss:|^Private/ {{print $2}}' /proc/{pid}/smaps_rollup)"
            for kind, pid in pids.items()
        )
        before = self._rows(self.s.run(read).out)
        self.s.run(f"sleep {IDLE_S}", timeout_s=IDLE_S + 60)
        after = self._rows(self.s.run(read).out)
        hertz = int(self.s.run("getconf CLK_TCK").out)
        found = []
        for kind in AGENTS:
            then, now = before[kind], after[kind]
            cpu_s = (now[0] + now[1] - then[0] - then[1]) / hertz
            found.append(
                f"{kind}: RSS {now[3] / 1024:.1f} MiB, PSS {now[4] / 1024:.1f}, private {sum(now[5:7]) / 1024:.1f}; "
                f"CPU {cpu_s / IDLE_S:.3%}, {(now[2] - then[2]) / IDLE_S:.2f} switches/s"
            )
        return "; ".join(found)

    @staticmethod
    def _rows(text: str) -> dict[str, list[int]]:
        return {line.split()[0]: [int(word) for word in line.split()[1:]] for line in text.splitlines()}
