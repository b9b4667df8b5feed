"""Draws the rooms from the imports: ``make docs-img`` writes ``rooms.svg`` and the table in ``docs/architecture.md``.

What a room is for and where its box stands is written here; who imports whom is read from the sources, imports for
type checkers and late ones included. So the picture changes when a room begins or ceases to import another one, not
with each new line between two rooms. Picture and table are kept in the tree; a test makes them again and compares.

An arrow that follows from others is left out, or nobody could see the order. An import that points back is drawn in
red, and :mod:`tests.core.test_structure` refuses it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PICTURE = HERE / "rooms.svg"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: made by `make docs-img` -->", "<!-- end of rooms -->"
NAME = "token_relay"

WIDTH, HEIGHT = 960, 838
BOX_H = 50
CLEAR = 16  # from a box to an arrow that passes it


@dataclass(frozen=True, slots=True)
class Room:
    """A folder under ``token_relay``: what it is for, what it may touch, and where its box stands."""

    half: str  # relay or device
    kind: str  # pure, ports, io or world
    short: str  # in its box
    knows: str  # in the table
    x: int
    y: int
    width: int

    @property
    def right(self) -> int:
        return self.x + self.width

    @property
    def bottom(self) -> int:
        return self.y + BOX_H


WORDS = {"pure": "pure", "ports": "ports only", "io": "I/O", "world": "test world"}

# In the order of the imports: a room may import those before it.
ROOMS: Mapping[str, Room] = {
    "protocol": Room(
        "relay", "pure", "secrets, envelope, messages, pairing, delivery, handoff",
        "what two paired devices say to each other: secrets, identities, the envelope, each message, pairing, "
        "sequence numbers, both state machines of a handoff, topics",
        24, 758, 588,
    ),
    "pki": Room(
        "relay", "pure", "certificates",
        "the broker's private CA as values: inputs in, certificates out",
        240, 668, 198,
    ),
    "provider": Room(
        "relay", "ports", "a client of the provider",
        "the identity provider as its client sees it: OAuth, native authentication, session transfer; what each "
        "provider does with refresh tokens, as data",
        456, 668, 186,
    ),
    "mqtt": Room(
        "relay", "io", "one client",
        "one lasting connection to the broker; the only importer of aiomqtt",
        138, 668, 90,
    ),
    "pages": Room(
        "relay", "io", "templates",
        "what console and lab share: who may look, the server, forms out of questions, templates, one stylesheet",
        24, 668, 104,
    ),
    "sandbox": Room(
        "relay", "world", "a provider, a broker and a network",
        "a world to try things in, on real sockets: a provider, a broker, links that can be cut, the lab",
        660, 668, 276,
    ),
    "agents": Room(
        "device", "ports", "what phone and companion decide, and in which transaction",
        "what an agent decides, and in which transaction: the phone, the companion, the grants that both keep, "
        "the link between them",
        270, 536, 420,
    ),
    "vault": Room(
        "device", "io", "the sealed durable store, and its key",
        "the sealed durable store and where its key comes from; knows no handoff",
        270, 456, 420,
    ),
    "host": Room(
        "device", "io", "what a Linux device gives",
        "what a Linux device gives: clocks, HTTP, systemd, logs, paths, configuration, the home, the board",
        270, 376, 420,
    ),
    "apps": Room(
        "device", "io", "token.sock, and who may have which token",
        "the socket at which apps get access tokens, and the policy; no refresh token comes here",
        270, 296, 420,
    ),
    "service": Room(
        "device", "io", "an agent as a running program",
        "an agent as a running program: start and stop, the control socket, `status`, metrics, `doctor`",
        270, 216, 420,
    ),
    "ca": Room(
        "device", "io", "the broker's CA on disk",
        "the CA's directory, what stands behind `certs`",
        722, 216, 214,
    ),
    "console": Room(
        "device", "io", "what a person looks at",
        "the pages of an agent, as a client of its control socket",
        24, 176, 200,
    ),
    "cli": Room(
        "device", "io", "what a person types, and the demo",
        "what a person types: parser, prompts, output, exit codes; `demo`",
        270, 136, 420,
    ),
    "simulation": Room(
        "device", "world", "the same agents in virtual time; the test kit",
        "the agents' real code in virtual time, with simulated ports; the promises; the pytest fixtures",
        270, 56, 420,
    ),
}  # fmt: skip
RANK = {name: number for number, name in enumerate(ROOMS)}

Edges = frozenset[tuple[str, str]]


# -- What the sources say ----------------------------------------------------------------------------------


def sources() -> dict[str, str]:
    """Return every file of both halves by its path from the root."""
    found = [path for half in ("relay", "device") for path in (ROOT / half / NAME).rglob("*.py")]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(found)}


def imports_between(files: Mapping[str, str]) -> Edges:
    """Return who imports whom, by room; an import inside a room is none."""
    edges = set()
    for path, source in files.items():
        mine = path.split("/")[2]
        edges |= {(mine, theirs) for theirs in _rooms_named(ast.parse(source, path)) if theirs != mine}
    return frozenset(edges)


def _rooms_named(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith(f"{NAME}."))


def points_back(edge: tuple[str, str]) -> bool:
    return RANK[edge[0]] < RANK[edge[1]]


def without_those_that_follow(edges: Edges) -> Edges:
    """Leave out an arrow whose end is also reached by way of other arrows; ``edges`` have no circle."""

    def reaches(start: str, end: str) -> bool:
        return any(a == start and (b == end or reaches(b, end)) for a, b in edges)

    return frozenset((a, b) for a, b in edges if not any(reaches(c, b) for start, c in edges if start == a and c != b))


# -- The picture -------------------------------------------------------------------------------------------

LIGHT = {
    "paper": "#f6f4ef", "panel": "#fffefb", "line": "#dcd7cb", "text": "#22303c", "muted": "#56626c", "back": "#c0392b",
    "pure": "#dcebe8", "pure-edge": "#2a7f76", "ports": "#e2e9f6", "ports-edge": "#3f61a3",
    "io": "#fbecd8", "io-edge": "#a55c0c", "world": "#eee9f5", "world-edge": "#74639a",
}  # fmt: skip
DARK = {
    "paper": "#171c21", "panel": "#20272e", "line": "#3a444d", "text": "#e8ebee", "muted": "#aab4bc", "back": "#ff7b6b",
    "pure": "#1d3b38", "pure-edge": "#62c0b3", "ports": "#24324d", "ports-edge": "#8fadea",
    "io": "#43321d", "io-edge": "#e3a657", "world": "#332c43", "world-edge": "#b7a6dc",
}  # fmt: skip


def style(colours: Mapping[str, str]) -> Iterator[str]:
    """Yield the rules of one colour scheme."""
    yield f".paper{{fill:{colours['paper']}}}.panel{{fill:{colours['panel']};stroke:{colours['line']}}}"
    yield f"text{{fill:{colours['text']}}}.muted{{fill:{colours['muted']}}}"
    yield f".arrow{{stroke:{colours['muted']}}}.head{{fill:{colours['muted']}}}"
    yield f".back{{stroke:{colours['back']}}}.backhead{{fill:{colours['back']}}}"
    for kind in WORDS:
        edge = colours[f"{kind}-edge"]
        yield f".{kind}{{fill:{colours[kind]};stroke:{edge}}}.{kind}-word{{fill:{edge}}}"


Points = tuple[tuple[int, int], ...]


def routes(edges: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Points]:
    """Find a way for each arrow: straight where nothing is in between, else around the boxes, if there is one."""
    found: dict[tuple[str, str], Points] = {}
    exits: dict[tuple[str, bool], int] = {}  # arrows that have left a box by this side
    by_distance = sorted(edges, key=lambda edge: (edge[0], -abs(ROOMS[edge[0]].x - ROOMS[edge[1]].x), edge[1]))
    for a, b in by_distance:
        for points in _candidates(ROOMS[a], ROOMS[b], exits.get((a, False), 0), exits.get((a, True), 0)):
            if not _hits(points, {a, b}) and not any(_overlap(points, other) for other in found.values()):
                found[a, b] = points
                if len(points) == 3 and points[0][1] == points[1][1]:
                    side = (a, points[1][0] > points[0][0])
                    exits[side] = exits.get(side, 0) + 1
                break
    return found


def _candidates(a: Room, b: Room, left_used: int, right_used: int) -> Iterator[Points]:
    """Yield ways from ``a`` to ``b``, the plainest first; ``…_used``: arrows that left by this side already."""
    left, right = max(a.x, b.x) + 12, min(a.right, b.right) - 12
    if left < right and a.bottom < b.y:
        yield (((left + right) // 2, a.bottom), ((left + right) // 2, b.y))
    if a.y == b.y:
        y = a.y + BOX_H // 2
        yield ((a.x, y), (b.right, y)) if b.x < a.x else ((a.right, y), (b.x, y))
        yield ((a.x + 40, a.y), (a.x + 40, a.y - 10), (b.right - 40, a.y - 10), (b.right - 40, b.y))
    for x in _outwards(b.x + b.width // 2, b.width // 2 - 4):  # out of a side, then down
        if a.y < b.y and not a.x - CLEAR < x < a.right + CLEAR:
            y = a.y + 16 + 18 * (right_used if x > a.right else left_used)
            yield ((a.right if x > a.right else a.x, y), (x, y), (x, b.y))
    for x in _outwards(a.x + a.width // 2, a.width // 2 - 12):  # down, then into a side
        if not b.x - CLEAR < x < b.right + CLEAR:
            y = b.y + BOX_H - 5  # below the arrows that leave by this side
            yield ((x, a.bottom), (x, y), (b.right if x > b.right else b.x, y))


def _outwards(middle: int, reach: int) -> Iterator[int]:
    for step in range(0, reach, 4):
        yield middle + step
        yield middle - step


def _pieces(points: Points) -> Iterator[tuple[int, int, int, int]]:
    for (x1, y1), (x2, y2) in pairwise(points):
        yield min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _hits(points: Points, ends: set[str]) -> bool:
    return any(
        x1 < room.right + 12 and x2 > room.x - 12 and y1 < room.bottom + 6 and y2 > room.y - 6
        for x1, y1, x2, y2 in _pieces(points)
        for name, room in ROOMS.items()
        if name not in ends
    )


def _overlap(points: Points, other: Points) -> bool:
    """Whether two arrows run along the same line for a while; that they cross is no harm."""
    return any(
        (x1 == x2 and u1 == u2 and abs(x1 - u1) < 10 and y1 < v2 and v1 < y2)
        or (y1 == y2 and v1 == v2 and abs(y1 - v1) < 10 and x1 < u2 and u1 < x2)
        for x1, y1, x2, y2 in _pieces(points)
        for u1, v1, u2, v2 in _pieces(other)
    )


def _bow(a: Room, b: Room) -> str:
    """Return a bow at the left, from box to box: for an import that points back, or an arrow that finds no way."""
    bulge = max(min(a.x, b.x) - 70, 12)
    y1, y2 = a.y + BOX_H // 2, b.y + BOX_H // 2
    return f"M{a.x} {y1}C{bulge} {y1} {bulge} {y2} {b.x} {y2}"


def draw(edges: Edges) -> str:
    """Return the picture of these imports."""
    back = sorted(edge for edge in edges if points_back(edge))
    forward = without_those_that_follow(frozenset(edges) - frozenset(back))
    said = "; ".join(f"{name} imports {_list(name, edges, 'nothing')}" for name in reversed(list(ROOMS)))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        ' role="img"',
        "     aria-labelledby=\"title desc\" font-family=\"system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif\">",
        "  <!-- made by docs/img/make_rooms.py: change that, then make docs-img -->",
        '  <title id="title">The rooms of token_relay, and who imports whom</title>',
        f'  <desc id="desc">{escape(said)}.</desc>',
        "  <style>",
        *(f"    {line}" for line in style(LIGHT)),
        "    @media (prefers-color-scheme: dark) {",
        *(f"      {line}" for line in style(DARK)),
        "    }",
        "  </style>",
        "  <defs>",
        *_arrowhead("head"),
        *_arrowhead("backhead"),
        "  </defs>",
        f'  <rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="18"/>',
        '  <rect class="panel" x="8" y="8" width="944" height="590" rx="12"/>',
        '  <rect class="panel" x="8" y="608" width="944" height="222" rx="12"/>',
        '  <text x="24" y="36" font-size="16"><tspan font-weight="700">device/</tspan>token_relay</text>',
        '  <text class="muted" x="24" y="57" font-size="13">the programs at either end</text>',
        '  <text x="300" y="634" font-size="16"><tspan font-weight="700">relay/</tspan>token_relay</text>',
        '  <text class="muted" x="300" y="654" font-size="13">what passes between the two ends</text>',
    ]
    found = routes(forward)
    for a, b in sorted(forward):
        path = "M" + "L".join(f"{x} {y}" for x, y in found[a, b]) if (a, b) in found else _bow(ROOMS[a], ROOMS[b])
        lines.append(f'  <path class="arrow" d="{path}" fill="none" stroke-width="2" marker-end="url(#head)"/>')
    lines += [
        f'  <path class="back" d="{_bow(ROOMS[a], ROOMS[b])}" fill="none" stroke-width="2" stroke-dasharray="6 4"'
        ' marker-end="url(#backhead)"/>'
        for a, b in back
    ]
    for name, room in ROOMS.items():
        lines += _box(name, room)
    lines += _legend(646, 758)
    return "\n".join([*lines, "</svg>", ""])


def _arrowhead(name: str) -> list[str]:
    return [
        f'    <marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8"'
        ' markerUnits="userSpaceOnUse" orient="auto">',
        f'      <path class="{name}" d="M0 0L10 5L0 10z"/>',
        "    </marker>",
    ]


def _box(name: str, room: Room) -> list[str]:
    word = WORDS[room.kind]
    dashes = ' stroke-dasharray="5 4"' if room.kind == "world" else ""
    return [
        f'  <rect class="{room.kind}" x="{room.x}" y="{room.y}" width="{room.width}" height="{BOX_H}" rx="8"'
        f' stroke-width="2"{dashes}/>',
        f'  <text x="{room.x + 12}" y="{room.y + 21}" font-size="16" font-weight="700">{name}</text>',
        f'  <text class="{room.kind}-word" x="{room.right - 12}" y="{room.y + 20}" font-size="12.5" font-weight="600"'
        f' text-anchor="end">{word}</text>',
        f'  <text class="muted" x="{room.x + 12}" y="{room.y + 40}" font-size="13">{escape(room.short)}</text>',
    ]


def _legend(x: int, y: int) -> list[str]:
    rows = (
        "An arrow is an import: the upper room",
        "knows the lower one, never the other",
        "way round. An arrow that follows from",
        "others is left out.",
    )
    return [
        f'  <text class="muted" x="{x}" y="{y + 4 + 18 * number}" font-size="12.5">{row}</text>'
        for number, row in enumerate(rows)
    ]


# -- The table ---------------------------------------------------------------------------------------------


def _list(name: str, edges: Edges, nothing: str) -> str:
    return ", ".join(room for room in ROOMS if (name, room) in edges) or nothing


def table(edges: Edges) -> str:
    """Return the rows for the page: each room with all that it imports."""
    words = {"pure": "nothing: pure", "ports": "ports only", "io": "I/O", "world": "a test world, never in production"}
    rows = [
        f"| [`{name}`](../{room.half}/{NAME}/{name}) | {room.knows} | {words[room.kind]} | {_list(name, edges, '')} |"
        for name, room in reversed(list(ROOMS.items()))
    ]
    head = ["| room | what it knows | what it may touch | what it imports |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *rows])


def with_table(page: str, edges: Edges) -> str:
    """Return the page with its table made anew."""
    before, between, rest = page.partition(BEGIN)
    _, after, end = rest.partition(END)
    if not between or not after:
        raise SystemExit(f"{PAGE.name} has lost its marks: {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{table(edges)}\n\n{END}{end}"


def check_rooms(files: Iterable[str]) -> None:
    """Say which folder has no box yet, and which box no folder."""
    there = {(parts[2], parts[0]) for path in files if len(parts := path.split("/")) > 3}
    known = {(name, room.half) for name, room in ROOMS.items()}
    if there != known:
        names = ", ".join(sorted(f"{half}/{NAME}/{name}" for name, half in there ^ known))
        raise SystemExit(f"{names}: add it to ROOMS in {Path(__file__).name}, or take it out")


def main() -> int:
    """Write both."""
    files = sources()
    check_rooms(files)
    edges = imports_between(files)
    PICTURE.write_text(draw(edges), encoding="utf-8")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), edges), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
