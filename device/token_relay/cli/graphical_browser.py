"""Opens an address in a graphical browser, and never in one that would take the terminal from the command.

Python's ``webbrowser`` also starts w3m and its like, in the foreground, and waits for some browsers. Here a browser
runs in a session of its own without the terminal, and nobody waits for it. Without a display only the program that the
person names in ``BROWSER`` is started (over SSH, an editor puts its helper there).
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TEXT_BROWSERS = frozenset({"elinks", "links", "links2", "lynx", "w3m", "www-browser"})
_USUAL = ("xdg-open", "x-www-browser", "gnome-www-browser", "firefox", "chromium", "chromium-browser", "google-chrome")
_NO_TERMINAL = [
    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
    (os.POSIX_SPAWN_DUP2, 0, 1),
    (os.POSIX_SPAWN_DUP2, 0, 2),
]


def open_graphical(url: str, env: Mapping[str, str], platform: str = sys.platform) -> bool:
    """Start the first browser that can be started; False when there is none, and the person opens the address."""
    for words in _commands(url, env, platform):
        program = shutil.which(words[0], path=env.get("PATH"))
        if program is None or _is_text_browser(program):
            continue
        try:
            os.posix_spawn(program, words, env, file_actions=_NO_TERMINAL, setsid=True)
        except OSError:
            continue
        return True
    return False


def _commands(url: str, env: Mapping[str, str], platform: str) -> Iterator[list[str]]:
    for named in env.get("BROWSER", "").split(os.pathsep):  # as Python's and Debian's programs read it
        try:
            words = shlex.split(named)
        except ValueError:
            continue
        if words:
            yield [word.replace("%s", url) for word in words] if "%s" in named else [*words, url]
    if platform == "darwin":
        yield ["open", url]
    elif env.get("DISPLAY") or env.get("WAYLAND_DISPLAY"):
        for name in _USUAL:
            yield [name, url]


def _is_text_browser(program: str) -> bool:
    names = (os.path.basename(path) for path in (program, os.path.realpath(program)))  # noqa: PTH119  # no pathlib: it costs time
    return not TEXT_BROWSERS.isdisjoint(names)
