"""What may go wrong with one request: kinds of fault, and the answers that come in place of the provider's. Pure."""

from __future__ import annotations

from typing import Literal

HttpFaultKind = Literal[
    "not_sent",
    "lost_before",
    "lost_after",
    "200",  # to "server_error": a page in place of the answer
    "302",
    "403",
    "404",
    "500",
    "502",
    "503",
    "504",
    "server_error",
    "429",
    "slow",
    "cut_json",
    "person",  # refused until the person does something, as by Entra
    "locked_out",  # refused for a while, as by Entra
    "unknown_client",  # the registration was taken away
    "refused_scope",  # the client may no longer ask for what the grant has
    "no_refresh_token",  # the answer leaves it out, as from providers that do not rotate
]
HTML = b"<h1>not what you asked for</h1>"
PAGES: dict[str, tuple[int, str, bytes]] = {
    "200": (200, "text/html; charset=utf-8", HTML),  # a captive portal
    "302": (302, "text/html", HTML),
    "403": (403, "text/html", HTML),  # a web firewall
    "404": (404, "text/plain", b"default backend - 404"),
    "500": (500, "text/html", HTML),
    "502": (502, "text/html", HTML),
    "503": (503, "text/html", HTML),
    "504": (504, "", b""),
    "server_error": (500, "application/json", b'{"error": "server_error"}'),
}
REFUSALS: dict[str, tuple[int, bytes]] = {
    "person": (400, b'{"error": "interaction_required", "error_description": "AADSTS50076", "error_codes": [50076]}'),
    "locked_out": (400, b'{"error": "invalid_grant", "error_description": "AADSTS50053", "error_codes": [50053]}'),
    "unknown_client": (401, b'{"error": "invalid_client", "error_description": "unknown client"}'),
    "refused_scope": (400, b'{"error": "invalid_scope", "error_description": "not for this client"}'),
}
