"""The story in ten steps, and the loop that tells it: play, check, show; stop at the first that does not hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from token_relay.cli.demo.checks import StepFailedError
from token_relay.cli.demo.ending import replay, revoke
from token_relay.cli.demo.opening import hand_off, open_the_gate, pair, sign_in, start_everything, switch_the_phone_off
from token_relay.cli.demo.outage import cut_the_power, refresh_on_demand
from token_relay.cli.demo.screen import Screen, Told
from token_relay.cli.demo.stage import Stage
from token_relay.protocol.errors import RelayError


@dataclass(frozen=True, slots=True)
class Step:
    """One step: what it is called, why it is told, and the play that checks it."""

    title: str
    why: str
    play: Callable[[Stage], Told]


STORY: tuple[Step, ...] = (
    Step(
        "provider and broker",
        """One process plays the identity provider and an MQTT broker, two more are the agents of a phone and of a
        companion device. They are started as anybody would start them and share nothing but sockets.""",
        start_everything,
    ),
    Step(
        "the person signs in",
        """This is the only sign-in on the phone. What it brings, a refresh token among it, stays sealed in the phone's
        vault.""",
        sign_in,
    ),
    Step(
        "the gate",
        """A refresh token leaves the phone only if the application allows it, as with the opt-in of an SDK. The
        setting is off by default, so the first handoff is refused and says which setting that was.""",
        open_the_gate,
    ),
    Step(
        "pairing",
        """The companion shows its public key and a one-time secret as a QR code. Afterwards both compute six digits
        from all that was said; if somebody sat in the middle, they would differ.""",
        pair,
    ),
    Step(
        "handoff",
        """The companion gets a token of its own, sealed to a key that it made for this handoff and has erased since.
        The broker carries sealed envelopes of one size and learns who writes to whom, and when, and no more.""",
        hand_off,
    ),
    Step(
        "the phone goes away",
        """From here on the companion must do without the phone: in a drawer, in another country, at the bottom of a
        lake.""",
        switch_the_phone_off,
    ),
    Step(
        "alone",
        """Access tokens end after a few seconds here. The companion fetches a new one only when an app asks, puts the
        provider's answer on its disk, and only then gives the token away. The generation counts the stored tokens.""",
        refresh_on_demand,
    ),
    Step(
        "two power cuts",
        """The power fails inside a refresh: (a) before the provider has done anything, (b) after it has issued the
        next token, with the answer still on its way. What (b) costs depends on the provider: where the old token
        still works nothing, where its use counts as theft a new handoff.""",
        cut_the_power,
    ),
    Step(
        "revocation",
        """The person takes the grant away. The companion erases it and confirms; what the provider can be told, it is
        told; what nobody can call back is said as well.""",
        revoke,
    ),
    Step(
        "replay",
        """Who records the broker's traffic can send it again. Both ends know every message that they have accepted,
        also after a restart, so nothing comes of it: the revoked grant stays revoked.""",
        replay,
    ),
)


def tell(steps: Sequence[Step], stage: Stage, screen: Screen) -> bool:
    """Play every step and show it; False at the first that does not hold."""
    for number, step in enumerate(steps, 1):
        screen.explain(number, step.title, step.why)
        try:
            with screen.working(number, step.title):
                told = step.play(stage)
        except RelayError as exc:
            failure = exc if isinstance(exc, StepFailedError) else StepFailedError("no error", f"{exc} {exc.hint}")
            screen.failed(number, step.title, failure, list(stage.programs.log_tails()))
            return False
        except ValidationError as exc:
            failure = StepFailedError("an answer of the known shape", f"{exc.title}: {exc.error_count()} fields differ")
            screen.failed(number, step.title, failure, list(stage.programs.log_tails()))
            return False
        screen.held(number, told)
    return True
