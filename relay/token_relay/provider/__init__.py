"""The identity provider as its client sees it: OAuth, native authentication, session transfer, provider profiles.

Ports only: one request goes out through :class:`.http.Http`, and every outcome is a value. It stores nothing and knows
no device, no handoff and no person at a terminal.
"""
