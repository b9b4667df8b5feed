"""structlog without rich: an agent prints no coloured tracebacks, and on a small device they cost too much.

structlog imports rich where it is installed, for a formatter that :mod:`.host.logs` does not use. Measured: a fifth
of an agent's start, and 3.4 MiB for as long as it runs. Only that one import is kept from it: who imports rich later
gets it.
"""

from __future__ import annotations

import sys

_IS_UNKNOWN = "rich" not in sys.modules
if _IS_UNKNOWN:
    sys.modules["rich"] = None  # type: ignore[assignment]  # the import system's own sign for "not to be found"
try:
    import structlog
finally:
    if _IS_UNKNOWN:
        del sys.modules["rich"]

__all__ = ["structlog"]
