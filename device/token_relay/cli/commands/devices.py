"""``phone devices``: the list, one device whole, and the list as it changes."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

from token_relay.cli.client import JsonObject
from token_relay.cli.commands.agent_calls import call, finish
from token_relay.cli.commands.phone import DEVICES_LIMIT
from token_relay.cli.device_table import lines_of
from token_relay.cli.parsing import DONE, Context, UsageError
from token_relay.cli.render import can_draw, is_terminal, moment, show, width_of

LOOK_EVERY_S = 2.0  # a look costs the agent one read; it greets the devices in its own time
CLEAR = "\x1b[H\x1b[2J"  # cursor home, erase display: ECMA-48 8.3.21, 8.3.39
PASSING = ("heard_at", "lease_left_s", "grant_ends_at")  # what changes by itself, and is no news


def run(args: argparse.Namespace, context: Context) -> int:
    """``phone devices``."""
    if args.device is not None:
        if args.only or args.watch or args.after:
            raise UsageError("one device is shown whole: --only, --after and --watch are for the list")
        result = call(args, context, "devices", {"device": args.device, "wait_s": args.wait}, silence_s=60)
        whole = result.get("device")
        if context.as_json or not isinstance(whole, dict):
            return finish(context, result)
        return finish(context, {**whole, "action": result.get("action")})
    if args.watch:
        return watch(args, context)
    result = _look(args, context)
    if context.as_json:
        show(context, result)
    else:
        _print(context, _lines(args, context, result))
    return DONE


def watch(args: argparse.Namespace, context: Context, *, pause: Callable[[float], None] = time.sleep) -> int:
    """Show the list whenever it changes, until the person stops it: redrawn on a terminal, else one after the other."""
    is_drawn = is_terminal(context) and not context.as_json
    shown: object = None
    try:
        while True:
            result = _look(args, context)
            lines = _lines(args, context, result)
            news = lines if is_drawn else _news(result)
            if news != shown:
                if context.as_json:
                    show(context, result)
                elif is_drawn:
                    print(CLEAR, end="", file=context.stdout)
                    _print(context, lines)
                else:
                    now = result.get("now")
                    _print(context, [*([""] if shown else []), moment(now if isinstance(now, int) else 0), *lines])
                shown = news
            pause(LOOK_EVERY_S)
    except KeyboardInterrupt:
        return DONE


def _look(args: argparse.Namespace, context: Context) -> JsonObject:
    wish: JsonObject = {"limit": args.limit, "wait_s": args.wait}
    if args.only:
        wish["only"] = args.only
    if args.after:
        wish["after"] = args.after
    return call(args, context, "devices", wish, silence_s=60)


def _lines(args: argparse.Namespace, context: Context, result: JsonObject) -> list[str]:
    only = f"--only {args.only} " if args.only else ""
    asked = only + (f"--limit {args.limit} " if args.limit != DEVICES_LIMIT else "")
    is_ascii = not can_draw(context.stdout, "●○◦·…")
    return lines_of(result, width=width_of(context), in_ascii=is_ascii, asked=asked)


def _print(context: Context, lines: list[str]) -> None:
    for line in lines:
        context.out(line)


def _news(result: JsonObject) -> str:
    """Return what of a result is news when it changes."""
    listed = result.get("devices")
    rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    kept = [{key: value for key, value in row.items() if key not in PASSING} for row in rows]
    return json.dumps([kept, result.get("summary"), result.get("next")])
