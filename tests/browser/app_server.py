"""A single-page application's own server: its pages, and the files of npm packages as they came from the registry.

It listens on ``http://localhost``, which a browser counts as secure. Nothing is bundled or changed: the page carries an
import map that says what Node would find for each name, a package's own ``node_modules`` first.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import web

CONDITIONS = ("browser", "import", "module", "default")  # of package.json's exports; the package says in which order
MODULE_TYPE = "text/javascript"
PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>app</title>
<link rel="icon" href="data:,">
<script type="importmap">{import_map}</script>
<script type="module">{script}</script>
</html>
"""


class AppServer:
    """Serves ``scripts``, by path the module that the page at that path runs, and what is in ``node_modules``.

    ``packages`` holds ``node_modules``. A script reads its settings from ``settings.json``, which a test may change.
    """

    def __init__(self, packages: Path, scripts: Mapping[str, Path]) -> None:
        self._packages, self._scripts = packages, scripts
        self._import_map = json.dumps(import_map(packages))
        self.settings: dict[str, Any] = {}
        self.origin = ""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> AppServer:
        app = web.Application()
        app.router.add_get("/settings.json", self._settings)
        app.router.add_get("/node_modules/{path:.+}", self._file)
        for path in self._scripts:
            app.router.add_get(path, self._page)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.origin = f"http://localhost:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _settings(self, request: web.Request) -> web.Response:
        return web.json_response(self.settings)

    async def _page(self, request: web.Request) -> web.Response:
        script = self._scripts[request.path].read_text(encoding="utf-8")
        return web.Response(text=PAGE.format(import_map=self._import_map, script=script), content_type="text/html")

    async def _file(self, request: web.Request) -> web.FileResponse:
        root = (self._packages / "node_modules").resolve()
        path = (root / request.match_info["path"]).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            raise web.HTTPNotFound
        kind = MODULE_TYPE if path.suffix in (".mjs", ".js") else mimetypes.guess_type(path)[0]
        return web.FileResponse(path, headers={"Content-Type": kind or "application/octet-stream"})


def import_map(packages: Path) -> dict[str, Any]:
    """Return what each name means to a browser: the packages on top, and for a package those that it brings along."""
    scopes = {
        f"/{place.parent.relative_to(packages)}/": dict(_names(packages, place))
        for place in sorted(packages.glob("node_modules/**/node_modules"))
    }
    return {"imports": dict(_names(packages, packages / "node_modules")), "scopes": scopes}


def _names(packages: Path, place: Path) -> Iterator[tuple[str, str]]:
    for described in sorted([*place.glob("[!.@]*/package.json"), *place.glob("@*/*/package.json")]):
        told = json.loads(described.read_text(encoding="utf-8"))
        name, url = str(described.parent.relative_to(place)), f"/{described.parent.relative_to(packages)}/"
        exports = told.get("exports", told.get("module", told.get("main", "index.js")))
        if isinstance(exports, str) or not any(key.startswith(".") for key in exports):
            exports = {".": exports}
        for key, target in exports.items():
            found = _target(target)
            if found is not None and "*" not in key:
                yield name + key.removeprefix("."), url + found.removeprefix("./")


def _target(target: object) -> str | None:
    """Return the file that a browser takes, of a target with conditions. Node.js, Packages: Conditional exports."""
    if isinstance(target, Mapping):
        found = (_target(inner) for condition, inner in target.items() if condition in CONDITIONS)
        return next((one for one in found if one is not None), None)
    return target if isinstance(target, str) else None
