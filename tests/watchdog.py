"""How long a test waits before it calls a hang a hang: one number for all of them.

No test asserts how long something takes. What must not last for ever is waited for under this bound, which a machine
that is busy with other work never meets: a test that meets it has found a process that stands still.
"""

from __future__ import annotations

HANG_S = 120.0
