"""The person at this terminal, for a command that signs in by itself and not through an agent.

A question waits for its answer as everywhere in this program, so nothing else goes on meanwhile. Ctrl-C during a
question cancels the command, as it does at any other moment: it may still clear up.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from token_relay.cli.parsing import Context
from token_relay.cli.prompts import Prompts, Sources
from token_relay.cli.render import clean


class TerminalPerson:
    """Implements :class:`token_relay.agents.phone.person.Person`."""

    def __init__(self, context: Context, sources: Sources) -> None:
        self._context = context
        self._prompts = Prompts(context, sources)

    async def ask(self, kind: Any, text: str, **extra: Any) -> str | None:
        """Ask on the terminal, or take the answer from the command's options."""
        # The loop's own handler would only note the signal while the terminal is read.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return self._prompts.answer({"kind": kind, "text": text, **extra})
        except KeyboardInterrupt:
            raise asyncio.CancelledError from None
        finally:
            signal.signal(signal.SIGINT, before)

    async def progress(self, step: dict[str, Any]) -> None:
        """Print what has happened."""
        self._context.note(clean(str(step.get("message", ""))))
