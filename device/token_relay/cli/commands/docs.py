"""``token-relay docs``: the documents that came with this program, from its wheel or its checkout.

The line about each is the one of the index, ``docs/README.md``, else the document's own title.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from token_relay.cli.parsing import DONE, Command, Context, UsageError, json_option, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from token_relay.cli.client import JsonObject

INDEX = "README.md"
BESIDE = "../certs/"  # the one page that lies elsewhere
LEFT_OUT = frozenset(
    {"completion", "decisions", "img", "man", "mutants.md"}
)  # for who changes the program; not in the wheel
LINK = re.compile(r"\[([^]]+)\]\(([^)#]+)\)")


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", nargs="?", type=text, help="document to print, as the list names it; else the list"
    )
    parser.add_argument(
        "--path", action="store_true", help="print where it lies, or the directory of all, such as for Postman's import"
    )
    json_option(parser)


COMMANDS = {
    "docs": Command(
        "read the documents that came with this program",
        "docs:run",
        _options,
        description="List the documents that came with this program, print one, or say where they lie: pages, the "
        "OpenAPI and Postman files, the Grafana dashboard, alert rules, examples.",
        examples="  token-relay docs\n  token-relay docs troubleshooting | less\n"
        "  token-relay docs native-auth.postman_collection --path",
    )
}


def run(args: argparse.Namespace, context: Context) -> int:
    """``docs``."""
    place = directory()
    found = documents(place)
    if args.name is not None:
        path = find(found, args.name)
        document = place / path
        if args.path:
            shown: JsonObject = {"name": name_of(path), "path": str(document)}
        else:
            shown = {"name": name_of(path), "path": str(document), "text": document.read_text(encoding="utf-8")}
    elif args.path:
        shown = {"path": str(place)}
    else:
        listed: list[JsonObject] = [{"name": name_of(path), "about": about} for path, about in found.items()]
        shown = {"path": str(place), "documents": list(listed)}
        if not context.as_json:
            width = max(len(str(each["name"])) for each in listed)
            for each in listed:
                context.out(f"{each['name']:<{width}}  {each['about']}")
            return DONE
    if context.as_json:
        from token_relay.cli.render import show

        show(context, shown)
    else:
        context.out(str(shown.get("text", shown["path"])).rstrip("\n"))
    return DONE


def directory() -> Path:
    """Return where the documents lie: in the package of a wheel, else in the checkout."""
    package = Path(__file__).parents[2]
    installed = package / "docs"
    return installed if installed.is_dir() else package.parents[1] / "docs"


def documents(place: Path) -> dict[str, str]:
    """Return all documents, by their path below ``place``, in the index's order, with a line about each."""
    index = (place / INDEX).read_text(encoding="utf-8")
    found = {INDEX: "what there is, in order"}
    for item in re.findall(r"^- (.*(?:\n  .*)*)", index, re.MULTILINE):
        line = " ".join(LINK.sub(r"\1", item).split())
        for _, target in LINK.findall(item):
            found.setdefault(target, line.partition(": ")[2] or line)
    for path in sorted(place.rglob("*")):
        relative = path.relative_to(place)
        is_left_out = path.suffix == ".py" or relative.parts[0] in LEFT_OUT or "node_modules" in relative.parts
        if path.is_file() and not is_left_out:
            found.setdefault(str(relative), _title(path))
    return {
        path: line
        for path, line in found.items()
        if (place / path).is_file() and Path(path).parts[0] not in LEFT_OUT and (path[0] != "." or BESIDE in path)
    }


def _title(path: Path) -> str:
    first = path.read_text(encoding="utf-8").lstrip().partition("\n")[0]
    return first.removeprefix("# ") if first.startswith("# ") else f"file of {path.parent.name}"


def name_of(path: str) -> str:
    """Return what a document is called here: its file's name, with the folder where the name alone says nothing."""
    file = Path(path)
    return file.stem if file.stem not in ("README", "index") else file.parent.name or "index"


def find(found: dict[str, str], name: str) -> str:
    """Return the path of the document with this name, or with this path in the checkout.

    Raises:
        UsageError: there is none.
    """
    wanted = name.removeprefix("docs/")
    for path in found:
        if wanted in (path, name_of(path), path.removesuffix(".md"), Path(path).name):
            return path
    near = difflib.get_close_matches(wanted, map(name_of, found), n=1)
    raise UsageError(
        f"there is no document {name!r}" + (f"; did you mean {near[0]}?" if near else ""), hint="token-relay docs"
    )
