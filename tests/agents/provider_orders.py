"""Use the control interface and the protected resource of a simulated world's provider."""

from __future__ import annotations

import json
from typing import Any

from tests.agents.world_kit import World
from token_relay.sandbox.control.api import control
from token_relay.sandbox.provider.http_values import Request


def order(world: World, path: str, **body: Any) -> None:
    """Give an order to the provider's control interface."""
    request = Request("POST", f"/sandbox/{path}", json.dumps(body).encode(), {"content-type": "application/json"})
    answer = control(world.provider, request, world.clock.now().wall_s).response
    assert answer.status < 300, answer.body


def show(world: World, access_token: str) -> tuple[int, str]:
    """Show an access token to the resource; its status, and the claims that it challenges with."""
    now = world.clock.now().wall_s
    request = Request("GET", "/sandbox/resource", b"", {"authorization": f"Bearer {access_token}"})
    answer = world.provider.commit(request, world.provider.admit(request, now), now).response
    header = dict(answer.headers).get("WWW-Authenticate", "")
    return answer.status, header.partition('claims="')[2].rstrip('"')
