"""``companion pair``: shows the invitation and follows what becomes of it, until a phone is paired.

The invitation's text is alone on the last line of standard output; all else is on standard error. On a terminal the
time that is left counts down in one line, and an invitation that came to nothing is followed by a fresh one.
"""

from __future__ import annotations

import argparse
import os

from token_relay.cli import qr
from token_relay.cli.client import JsonObject, control_call, locate
from token_relay.cli.commands.agent_calls import check_number_text
from token_relay.cli.parsing import DONE, PENDING, Context
from token_relay.cli.prompts import Prompts, Sources
from token_relay.cli.render import can_draw, clean, duration, show

FRESH = 3  # invitations after the first: a person who needs more is no longer there
TICK_S = 5.0
BACK = "\r\x1b[K"  # to the beginning of the line, and clear it


class _Screen:
    """What the person sees; ``shown`` is what ``--json`` adds to the result."""

    def __init__(self, context: Context, *, with_qr: bool, is_inverted: bool) -> None:
        self._context = context
        self._with_qr = with_qr
        self._is_inverted = is_inverted
        self._is_counting = False
        self.shown: JsonObject = {}

    def step(self, step: JsonObject) -> None:
        """Show one step; what a newer agent says beyond these is left out unless it has a message."""
        if isinstance(step.get("invitation"), str):
            self._show(step)
        elif "check_number" in step:
            name = clean(str(step.get("device_name") or "it has no name"))
            self._note(f"a phone answered: check number {check_number_text(step['check_number'])} ({name})")
            self._note("compare it with the phone's before you confirm there")
            self.shown.update(step)
        elif step.get("state") == "open" and isinstance(left_s := step.get("expires_in_s"), int | float):
            print(f"{BACK}valid for {duration(left_s)}", end="", file=self._context.stderr, flush=True)
            self._is_counting = True
        elif message := step.get("message"):
            self._note(clean(str(message)))

    def close(self) -> None:
        """End the line that counts."""
        if self._is_counting:
            print(end=BACK, file=self._context.stderr, flush=True)
        self._is_counting = False

    def _note(self, text: str) -> None:
        self.close()
        self._context.note(text)

    def _show(self, step: JsonObject) -> None:
        self.close()
        invitation = clean(str(step["invitation"]))
        self.shown.update(step)
        expires_in_s = step.get("expires_in_s")
        if isinstance(expires_in_s, int | float):
            self._context.note(f"valid for {duration(expires_in_s)} and one phone: scan it, or type it there")
        if self._context.as_json:
            self._context.note(invitation)
            return
        if self._with_qr:
            self._draw(invitation)
        self._context.out(invitation)

    def _draw(self, invitation: str) -> None:
        context, stdout = self._context, self._context.stdout
        if not can_draw(stdout):
            context.note(f"no QR code: {stdout.encoding} has no blocks to draw it with; paste the text")
            return
        import segno

        code = segno.make(invitation, micro=False)
        rows = [[bool(module) for module in row] for row in code.matrix_iter(border=qr.MARGIN)]
        columns = _columns(context)
        if 0 < columns < len(rows[0]):
            context.note(
                f"the QR code needs {len(rows[0])} columns, this terminal has {columns}: widen it, or paste the text"
            )
            return
        has_colours = _has_colours(context)
        for line in qr.lines(rows, has_colours=has_colours, is_inverted=self._is_inverted):
            context.out(line)
        if not has_colours:
            ground = "dark text on a light" if self._is_inverted else "light text on a dark"
            other = "without --invert" if self._is_inverted else "with --invert"
            context.note(f"drawn without colours, for {ground} ground; on the other: {other}")


def _columns(context: Context) -> int:
    """Return the width of the terminal that the code goes to; 0 where there is none, or it does not know."""
    try:
        return os.get_terminal_size(context.stdout.fileno()).columns
    except (OSError, ValueError):
        return 0


def _has_colours(context: Context) -> bool:
    return context.stdout.isatty() and not context.env.get("NO_COLOR") and context.env.get("TERM") != "dumb"


def companion_pair(args: argparse.Namespace, context: Context) -> int:
    """``companion pair``: prints the invitation as the last line of standard output.

    With ``--json`` it prints the invitation on standard error while it waits for the phone, and then again in the
    object at the end.
    """
    screen = _Screen(context, with_qr=not args.no_qr, is_inverted=args.invert)
    command_args: JsonObject = {"wait": not args.no_wait}
    is_watched = context.stdout.isatty() and context.stderr.isatty() and context.env.get("TERM") != "dumb"
    if is_watched and not (args.no_wait or context.as_json):
        command_args |= {"fresh": FRESH, "tick_s": TICK_S}
    path = locate("companion", context.env, home=args.home, socket_directory=args.socket)
    answers = Prompts(context, Sources())
    try:
        result = control_call(path, "pair", command_args, on_progress=screen.step, on_ask=answers.answer)
    finally:
        screen.close()
    if isinstance(result.get("invitation"), str) and "invitation" not in screen.shown:
        screen.step(result)
    if context.as_json:
        show(context, {**screen.shown, **result})
    elif not args.no_wait:
        context.note(clean(str(result.get("message") or "paired")))
    if result.get("pending") is True and not args.no_wait:
        return PENDING
    return DONE
