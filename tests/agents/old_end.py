"""An end that knows version 1 alone, as every program did before HELLO said more, or versions 1 and 2.

It is the program of today whose link does not read what has a higher version and never greets in it. That is all the
difference: what else is new it does only for a peer that it has heard speak that version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from token_relay.agents import link as link_module
from token_relay.agents.link import Link
from token_relay.protocol.messages import Message, UnsupportedError, decode


def make_old(link: Link, version: int = 1) -> None:
    """Let this link, from now on and until it is made anew, know no version above this one."""

    def old_decode(plaintext: bytes) -> Message:
        message = decode(plaintext)
        if message.head.v > version:
            raise UnsupportedError(message.head)
        return message

    def aged(method: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any, **options: Any) -> None:
            with pytest.MonkeyPatch.context() as patch:  # nothing awaits in here, so no other link meets it
                patch.setattr(link_module, "decode", old_decode)
                patch.setattr(link_module, "SPEAKS", version)
                method(*args, **options)

        return run

    vars(link).update(_accept=aged(link._accept), _hello=aged(link._hello))  # of this one object


@contextmanager
def old_program(end: Any, version: int = 1) -> Iterator[None]:
    """Give a simulated device the old program: each start in here begins it; afterwards it was updated."""
    build = end.build

    def built(ports: Any) -> Any:
        agent = build(ports)
        make_old(agent.link, version)
        return agent

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(end, "build", built)
        yield
