"""A web page of somebody else on a port of this machine: what it is asked, and whatever it tries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

# Everything that a page can do to another port, one after the other; returns what it has learned.
TRY_ALL = """async ([first, path]) => {
  const learned = [];
  const url = first + path;
  const settled = (promise) => Promise.race([promise, new Promise((done) => setTimeout(() => done("slow"), 3000))]);
  for (const mode of ["cors", "no-cors"]) for (const method of ["GET", "POST"]) {
    const body = method === "POST" ? new URLSearchParams({device: "x"}) : undefined;
    try {
      const answer = await fetch(url, {mode, method, body, credentials: "include"});
      const text = await answer.text();
      if (text !== "" || answer.type !== "opaque") learned.push(["fetch", mode, method, text.slice(0, 80)]);
    } catch {}
  }
  const element = (kind, set) => settled(new Promise((done) => {
    const one = document.createElement(kind);
    one.onload = () => done("loaded");
    one.onerror = () => done("refused");
    set(one);
    document.body.append(one);
  }));
  for (const [kind, name] of [["img", "src"], ["script", "src"], ["link", "href"]]) {
    const file = first + {img: "static/icon.svg", script: "static/live.js", link: "static/pages.css"}[kind];
    const end = await element(kind, (one) => { if (kind === "link") one.rel = "stylesheet"; one[name] = file; });
    if (end === "loaded") learned.push([kind, end]);
  }
  const frame = document.createElement("iframe");
  frame.src = url;
  document.body.append(frame);
  await settled(new Promise((done) => { frame.onload = done; }));
  try {
    const text = frame.contentDocument?.body?.textContent;
    if (text) learned.push(["iframe", text]);
  } catch {}
  const sandboxed = document.createElement("iframe");
  sandboxed.sandbox = "allow-forms allow-scripts";
  sandboxed.srcdoc = `<form method="post" action="${url}"><input name="device" value="x"></form>
    <script>document.forms[0].submit()<\\/script>`;
  document.body.append(sandboxed);
  await settled(new Promise((done) => { sandboxed.onload = () => setTimeout(done, 300); }));
  const source = new EventSource(first + "stream", {withCredentials: true});
  const opening = (one) => settled(new Promise((done) => {
    one.onopen = () => done("open");
    one.onerror = () => done("refused");
  }));
  const heard = await opening(source);
  if (heard === "open") learned.push(["EventSource", heard]);
  source.close();
  try {
    const socket = new WebSocket(url.replace("http", "ws"));
    const end = await opening(socket);
    if (end === "open") learned.push(["WebSocket", end]);
  } catch {}
  navigator.sendBeacon(url, new URLSearchParams({device: "x"}));
  return learned;
}"""


@dataclass
class Foreign:
    """A web server of somebody else."""

    origin: str = ""
    asked: list[web.BaseRequest] = field(default_factory=list)
    cookies: list[str] = field(default_factory=list)  # Set-Cookie of the page that is asked next

    def seen(self) -> str:
        """Return all that was sent to it."""
        return "\n".join(f"{one.path_qs} {list(one.headers.items())}" for one in self.asked)


@asynccontextmanager
async def foreign_server() -> AsyncIterator[Foreign]:
    """Serve one empty page at every path."""
    found = Foreign()

    async def page(request: web.BaseRequest) -> web.Response:
        found.asked.append(request)
        answer = web.Response(text="<!doctype html><title>x</title><body>", content_type="text/html")
        for cookie in found.cookies:
            answer.headers.add("Set-Cookie", cookie)
        return answer

    runner = web.ServerRunner(web.Server(page, max_field_size=1_000_000))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found.origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield found
    finally:
        await runner.cleanup()
