"""``token-relay demo``: the whole story on one machine, told and checked.

Phone, companion and sandbox (provider and broker) are separate real processes of the same command line; this one only
plays the person, an app, and the hand that pulls the plug. Nothing is shown that was not checked: ten steps, exit code
0 only if all of them held and no marked token stands in anything that a program wrote.

Needs no root, no network and no broker. Leaves no process and no file, also after a failure or Ctrl-C; limits in
:mod:`token_relay.cli.demo.interrupts`. The only real waiting is for access tokens to end, a few seconds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from token_relay.cli.demo.checks import StepFailedError, expect_equal
from token_relay.cli.demo.interrupts import Interrupts
from token_relay.cli.demo.programs import Programs
from token_relay.cli.demo.screen import Screen
from token_relay.cli.demo.stage import Stage
from token_relay.cli.demo.story import STORY, tell
from token_relay.cli.parsing import DONE, FAILED, Context
from token_relay.sandbox.marked_tokens import find_marked

# Of access tokens, seconds. The provider counts whole ones: a fresh token lives at least one second less than that.
LIFETIME_S = 3
LIFETIME_FAST_S = 2


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line says. ``fast``: no pauses for reading. ``step``: wait for a key before each step."""

    fast: bool = False
    step: bool = False
    profile: Literal["entra", "auth0", "strict"] | str = "entra"


def run_demo(options: DemoOptions) -> int:
    """Tell the story; 0 when all of it held, 1 when not. Main thread only, for the sake of Ctrl-C."""
    context = Context.of_process(as_json=False)
    screen = Screen(
        context.stdout,
        context.stdin,
        is_plain=bool(context.env.get("NO_COLOR")),
        fast=options.fast,
        step=options.step,
    )
    screen.title(f"token-relay demo, profile {options.profile}")
    began_at = time.monotonic()
    try:
        with Interrupts() as interrupts, Programs(context.env, interrupts) as programs:
            stage = Stage(programs, options.profile, LIFETIME_FAST_S if options.fast else LIFETIME_S)
            has_held = tell(STORY, stage, screen)
            searched, leaks = search_for_tokens(programs)
        expect_equal(programs.count_left(), 0, "processes that are left")
    except StepFailedError as exc:  # of the clean-up
        screen.end("the demo did not clean up", f"expected: {exc.expected}; got: {exc.got}", is_good=False)
        return FAILED
    took_s = time.monotonic() - began_at
    left = "no process and no file is left"
    if leaks:
        screen.end("a token stands in clear", f"in: {', '.join(leaks)}", is_good=False)
        return FAILED
    if not has_held:
        screen.end(f"the story did not hold ({took_s:.1f} s)", left, is_good=False)
        return FAILED
    found = f"no token stands in {searched // 1024} KiB of output, logs and homes"
    screen.end(f"all {len(STORY)} steps held in {took_s:.1f} s", f"{found}; {left}", is_good=True)
    return DONE


def search_for_tokens(programs: Programs) -> tuple[int, list[str]]:
    """Search all that the programs wrote for the sandbox's marked tokens; returns the bytes searched and the finds."""
    searched, found = 0, []
    for name, data in programs.written():
        searched += len(data)
        if find_marked(data):
            found.append(name)
    return searched, found
