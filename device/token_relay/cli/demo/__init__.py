"""``token-relay demo``: shows and checks the whole story on one machine.

Phone, companion and sandbox (provider and broker) are separate real processes of the same command line. This process
only acts as the person, as an app, and as the power cut. It shows nothing that it has not checked: the exit code is 0
only if all ten steps held and no marked token is in anything that a program wrote.

It needs no root, no network and no broker. It leaves no process and no file, also after a failure or Ctrl-C; the limit
is in :mod:`.programs`. It waits in real time only for access tokens to end, a few seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from token_relay.cli.demo import steps as play
from token_relay.cli.demo.checks import StepFailedError, expect_equal
from token_relay.cli.demo.programs import Interrupts, Programs
from token_relay.cli.demo.screen import Screen, Told
from token_relay.cli.demo.stage import Stage
from token_relay.cli.parsing import DONE, FAILED, Context
from token_relay.protocol.errors import RelayError

# Of access tokens, in seconds. The provider counts whole seconds, so a fresh token may live one second less.
LIFETIME_S = 3
LIFETIME_FAST_S = 2


@dataclass(frozen=True, slots=True)
class StoryStep:
    """One step: its title, its explanation, and the function that runs and checks it."""

    title: str
    why: str
    play: Callable[[Stage], Told]


STORY: tuple[StoryStep, ...] = (
    StoryStep(
        "provider and broker",
        """One process is the identity provider and an MQTT broker, two more are the agents of a phone and of a
        companion device. They start as a person would start them and share nothing but sockets.""",
        play.start_everything,
    ),
    StoryStep(
        "the person signs in",
        """This is the only sign-in on the phone. The tokens that it brings, a refresh token among them, stay sealed in
        the phone's vault.""",
        play.sign_in,
    ),
    StoryStep(
        "the gate",
        """A refresh token leaves the phone only if the application allows it, as with the opt-in of an SDK. The
        setting is off by default, so the first handoff is refused, and the refusal names the setting.""",
        play.open_the_gate,
    ),
    StoryStep(
        "pairing",
        """The companion shows its public key and a one-time secret as a QR code. Afterwards both compute six digits
        from the whole exchange; with somebody in the middle, the two numbers would differ.""",
        play.pair,
    ),
    StoryStep(
        "handoff",
        """The companion gets a token of its own, sealed to a key that it made for this handoff and has erased since.
        The broker carries sealed envelopes of one size and learns who writes to whom, and when, and no more.""",
        play.hand_off,
    ),
    StoryStep(
        "the phone goes away",
        """From here on the companion must do without the phone: it may be in a drawer or in another country.""",
        play.switch_the_phone_off,
    ),
    StoryStep(
        "alone",
        """Access tokens end after a few seconds here. The companion fetches a new one only when an app asks, puts the
        provider's answer on its disk, and only then gives the token away. The generation counts the stored tokens.""",
        play.refresh_on_demand,
    ),
    StoryStep(
        "two power cuts",
        """The power fails inside a refresh: (a) before the provider has done anything, (b) after it has issued the
        next token, with the answer still on its way. What (b) costs depends on the provider: nothing where the
        old token still works, a new handoff where its use counts as theft.""",
        play.cut_the_power,
    ),
    StoryStep(
        "revocation",
        """The person takes the grant away. The companion erases it and confirms; the provider is told as far as it can
        be; the demo also says what nobody can call back.""",
        play.revoke,
    ),
    StoryStep(
        "replay",
        """Somebody who records the broker's traffic can send it again. Both ends know every message that they have
        accepted, also after a restart, so nothing changes: the revoked grant stays revoked.""",
        play.replay,
    ),
)


def run_demo(*, profile: str = "entra", fast: bool = False, step: bool = False) -> int:
    """Run the demo; return 0 when every step held, else 1. Call it from the main thread, which gets Ctrl-C.

    ``fast``: no pauses for reading. ``step``: wait for a key before each step.
    """
    context = Context.of_process(as_json=False)
    is_plain = bool(context.env.get("NO_COLOR"))
    screen = Screen(context.stdout, context.stdin, is_plain=is_plain, fast=fast, step=step)
    screen.title(f"token-relay demo, profile {profile}")
    began_at = time.monotonic()
    try:
        with Interrupts() as interrupts, Programs(context.env, interrupts) as programs:
            stage = Stage(programs, profile, LIFETIME_FAST_S if fast else LIFETIME_S)
            has_held = tell(STORY, stage, screen)
            searched, leaks = programs.search()
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


def tell(steps: Sequence[StoryStep], stage: Stage, screen: Screen) -> bool:
    """Run every step and show it; return False at the first that does not hold."""
    for number, step in enumerate(steps, 1):
        screen.explain(number, step.title, step.why)
        try:
            with screen.working(number, step.title):
                told = step.play(stage)
        except (RelayError, LookupError, TypeError, json.JSONDecodeError) as exc:
            if not isinstance(exc, RelayError):
                failure = StepFailedError("an answer of the known shape", f"{type(exc).__name__}: {exc}")
            else:
                failure = exc if isinstance(exc, StepFailedError) else StepFailedError("no error", f"{exc} {exc.hint}")
            screen.failed(number, step.title, failure, list(stage.programs.log_tails()))
            return False
        screen.held(number, told)
    return True
