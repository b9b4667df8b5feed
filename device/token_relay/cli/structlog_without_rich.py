"""Imports structlog without rich, which an agent does not need and which costs too much on a small device.

structlog imports rich where it is installed, for a formatter that :mod:`token_relay.host.logs` does not use. Measured:
a fifth of an agent's start, and 3.4 MiB for as long as it runs. Only that one import is blocked: later imports of rich
work.
"""

from __future__ import annotations

import sys

_IS_UNKNOWN = "rich" not in sys.modules
if _IS_UNKNOWN:
    sys.modules["rich"] = None  # type: ignore[assignment]  # the import system's mark for "not found"
try:
    import structlog
finally:
    if _IS_UNKNOWN:
        del sys.modules["rich"]

__all__ = ["structlog"]
