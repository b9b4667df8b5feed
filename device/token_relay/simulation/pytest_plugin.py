"""pytest fixtures for the tests of an app on a companion, there where ``token-relay`` is installed (``pytest11``).

``relay_world`` is virtual time, ``relay_sandbox`` real processes and sockets; both are a
:class:`token_relay.simulation.testkit.api.RelayWorld`. Which provider, by a mark or by a parameter::

    @pytest.mark.token_relay(profile="strict", access_token_lifetime_s=600)
    async def test_...(relay_world): ...

    @pytest.mark.parametrize("relay_world", ["entra", "strict"], indirect=True)
    async def test_...(relay_world): ...

The fixtures are plain ones and touch no event loop, so tests run as pytest-asyncio (in either mode) or any other plugin
runs them. A test that does not use them costs the import of this module, which imports nothing else. Every pytest of
the environment loads it, an old one too: hence the old kind of hook wrapper.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from token_relay.simulation.testkit.sandbox import SandboxWorld
    from token_relay.simulation.testkit.virtual import VirtualWorld

MARK = "token_relay"
FIXTURES = ("relay_world", "relay_sandbox")
OPTIONS = ("profile", "access_token_lifetime_s", "seed")


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line(
        "markers", f"{MARK}(profile='entra', access_token_lifetime_s=3600, seed=1): the provider of relay_* fixtures"
    )


@pytest.fixture
def relay_world(request: pytest.FixtureRequest) -> Iterator[VirtualWorld]:
    """A phone and a companion, paired and on, with broker and provider, in virtual time."""
    from token_relay.simulation.testkit.virtual import VirtualWorld

    world = VirtualWorld(**_options(request))
    try:
        yield world
    finally:
        world.close()


@pytest.fixture
def relay_sandbox(request: pytest.FixtureRequest) -> Iterator[SandboxWorld]:
    """The same devices and servers as processes on this machine, with real sockets, in real time."""
    from token_relay.simulation.testkit.sandbox import SandboxWorld

    world = SandboxWorld(**_options(request))
    try:
        yield world
    finally:
        world.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Add to the report of a failed test what the provider saw."""
    report: pytest.TestReport = (yield).get_result()
    if report.when == "call" and report.failed:
        funcargs = getattr(item, "funcargs", {})
        for name in FIXTURES:
            if name in funcargs:
                report.sections.append((f"token relay: {name}", funcargs[name].describe()))


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the options of the mark and of the parameter; the parameter wins."""
    options: dict[str, Any] = {}
    for mark in reversed(list(request.node.iter_markers(MARK))):  # the closest mark comes last, and wins
        if mark.args:
            raise pytest.UsageError(f"{MARK} takes names only: {MARK}(profile='strict')")
        options |= mark.kwargs
    parameter = getattr(request, "param", None)
    if parameter is not None:
        options |= parameter if isinstance(parameter, dict) else {"profile": parameter}
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise pytest.UsageError(f"{MARK} does not know {', '.join(unknown)}; it knows {', '.join(OPTIONS)}")
    return options
