"""The one thing to do about a refusal that says none itself: read off its kind, and off the system's error behind it.

It touches nothing, and is imported only when a command has failed.
"""

from __future__ import annotations

import errno
import re
import shlex

from token_relay.cli.parsing import UsageError
from token_relay.protocol.errors import ConfigError, LocalError, RelayError

_FILE = re.compile(r"([^\s:]+\.\w+)(?::\d+)?: ")


def advice(error: RelayError, prog: str) -> str:
    """Return what a person can do, or an empty text; ``prog`` is the command as typed, without options."""
    if error.hint:
        return error.hint
    if isinstance(error.__cause__, OSError) and (found := _about_file(error.__cause__)):
        return found
    if isinstance(error, ConfigError) and (file := _FILE.match(str(error))):
        return f"correct {file[1]}, then type the command again"
    is_ours = type(error) is LocalError or isinstance(error, UsageError | ConfigError)
    return f"{prog} --help" if is_ours else ""


def _about_file(error: OSError) -> str:
    path = error.filename if isinstance(error.filename, str) else ""
    place = shlex.quote(path.rpartition("/")[0] or ("/" if path.startswith("/") else "."))
    match error.errno:
        case errno.EADDRINUSE:
            return "another program listens there: ss -ltnp shows which"
        case errno.ENOSPC | errno.EDQUOT:
            return f"make room on the disk: df -h {place}"
        case errno.EROFS:
            return f"the file system is read-only: findmnt -T {place}"
        case errno.EACCES | errno.EPERM if path:
            return f"see whose it is: ls -ld {place} {shlex.quote(path)}"
        case errno.ENOENT | errno.ENOTDIR | errno.EISDIR if path:
            return f"see what is there: ls -l {place}"
    return ""
