"""An end that knows version 1 alone, as every program did before HELLO said more.

It is the program of today whose link does not read what has version 2 and never greets in it. That is all the
difference: what else is new it does only for a peer that it has heard speak version 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from token_relay.agents import link as link_module
from token_relay.agents.link import Link
from token_relay.protocol.messages import Message, UnsupportedError, decode


def _decode(plaintext: bytes) -> Message:
    message = decode(plaintext)
    if message.head.v > 1:
        raise UnsupportedError(message.head)
    return message


def make_old(link: Link) -> None:
    """Let this link, from now on and until it is made anew, know version 1 alone."""
    accept, hello = link._accept, link._hello

    def accept_version_1(*args: Any, **options: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:  # nothing awaits in here, so no other link meets it
            patch.setattr(link_module, "decode", _decode)
            accept(*args, **options)

    def hello_version_1(*args: Any, **options: Any) -> None:
        hello(*args, **{**options, "version": 1})

    vars(link).update(_accept=accept_version_1, _hello=hello_version_1)  # of this one object


@contextmanager
def old_program(end: Any) -> Iterator[None]:
    """Give a simulated device the old program: each start in here begins it; afterwards it was updated."""
    build = end.build

    def built(ports: Any) -> Any:
        agent = build(ports)
        make_old(agent.link)
        return agent

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(end, "build", built)
        yield
