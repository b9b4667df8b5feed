"""The commands below ``sandbox ctl``. Tables only; see :mod:`.parsing`."""

from __future__ import annotations

import argparse
import re

from token_relay.cli.parsing import HTTP_PORT, Command, json_option, seconds, text, whole, with_common

URL = f"http://127.0.0.1:{HTTP_PORT}"  # where `sandbox` listens without options
FUTURE_S_MAX = 10 * 365 * 86_400.0  # as far as the provider's clock goes
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


def _common(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the sandbox")
    group.add_argument(
        "--url", metavar="URL", type=text, default=URL, help=f"where the sandbox's provider is (default {URL})"
    )
    group.add_argument("--ca", metavar="F", type=text, help="with https: certificate of the CA that signed its own")
    json_option(group)


def _link(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "link",
        metavar="LINK",
        type=text,
        help="phone-broker, companion-broker, phone-provider, companion-provider, or all",
    )


def _cut(parser: argparse.ArgumentParser) -> None:
    _link(parser)
    parser.add_argument(
        "--how",
        choices=("refuse", "blackhole", "drop"),
        help="refuse: connections are reset, new ones refused (default); blackhole: reset, new ones accepted and "
        "silent; drop: nothing is reset and nothing arrives, as on a dead mobile link",
    )
    parser.add_argument(
        "--direction",
        choices=("both", "up", "down"),
        help="only what the device sends (up) or what it is sent (down); with drop (default both)",
    )


def _slow(parser: argparse.ArgumentParser) -> None:
    _link(parser)
    parser.add_argument(
        "--latency", metavar="SECONDS", type=seconds, help="how much later bytes arrive, in each direction"
    )
    parser.add_argument(
        "--rate", metavar="BYTES", type=whole(1, 1_000_000_000), help="bytes per second, in each direction"
    )


def _fault(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", type=text, help="which fault; `sandbox ctl faults` lists them")
    parser.add_argument(
        "file", metavar="FILE", type=text, nargs="?", help="with answer: the answer, see `token-relay docs zoo`"
    )
    parser.add_argument(
        "--times",
        metavar="N",
        type=whole(0, 1_000_000),
        help="how many requests it hits, 0 for all (default 1, or as FILE says)",
    )
    parser.add_argument("--endpoint", metavar="E", type=text, help="only requests to this endpoint, such as token")
    parser.add_argument("--grant-type", metavar="G", type=text, help="only token requests of this kind")
    parser.add_argument("--seconds", metavar="S", type=seconds, help="how long a hold or slow waits; slow needs it")
    parser.add_argument("--retry-after", metavar="S", type=whole(0, 86_400), help="the Retry-After of 429 and 5xx")
    parser.add_argument("--commit", action="store_true", help="carry the request out first, then answer wrongly")


def _faults(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clear", action="store_true", help="disarm all, and let held requests go on")


def _lenient(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", type=text, nargs="?", help="the rule to switch off; left out: list all")
    parser.add_argument("--clear", action="store_true", help="keep all rules again")


def _clock(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "advance",
        metavar="+TIME",
        nargs="?",
        type=duration,
        help="by how much: +36h, 90s, 5m, 2d; without a unit seconds; left out: only show it",
    )


def _revoke(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("user", metavar="USER", type=text, help="user name")


def _events(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trace-id", metavar="T", type=text, help="only events of this request")
    parser.add_argument(
        "--after", metavar="ID", type=whole(0, 2**53 - 1), default=0, help="only events after the one with this id"
    )
    parser.add_argument("--follow", action="store_true", help="go on with new ones until interrupted")


def duration(value: str) -> float:
    """Read a time forward such as ``+36h``, ``90s``, ``1.5d``; return seconds."""
    found = re.fullmatch(r"\+?([0-9]{1,12}(?:\.[0-9]{1,6})?)([smhd]?)", value, re.ASCII)
    amount_s = float(found[1]) * _UNITS[found[2]] if found else -1.0
    if not 0 <= amount_s <= FUTURE_S_MAX:
        raise argparse.ArgumentTypeError("must be a time forward, such as +36h, 90s or 2d, of at most ten years")
    return amount_s


_OWN = {
    "links": Command("show the links and their traffic", "sandbox_ctl:links"),
    "cut": Command(
        "cut a link between an end and the broker or the provider",
        "sandbox_ctl:cut",
        _cut,
        examples="  token-relay sandbox ctl cut companion-provider\n"
        "  token-relay sandbox ctl cut all --how drop\n"
        "  token-relay sandbox ctl cut phone-provider --how drop --direction down",
    ),
    "heal": Command("undo a link's cut and slowness", "sandbox_ctl:heal", _link),
    "slow": Command(
        "make a link slow",
        "sandbox_ctl:slow",
        _slow,
        examples="  token-relay sandbox ctl slow phone-broker --latency 2 --rate 1000",
    ),
    "fault": Command(
        "let the next request to the provider go wrong",
        "sandbox_ctl:fault",
        _fault,
        examples="  token-relay sandbox ctl fault drop_after_commit --endpoint token\n"
        "  token-relay sandbox ctl fault error_503 --times 3 --retry-after 5\n"
        "  token-relay sandbox ctl fault answer nginx-502.toml --commit",
    ),
    "faults": Command("list the faults that are armed, and the names of all", "sandbox_ctl:faults", _faults),
    "lenient": Command(
        "switch off a rule that the real service has, or list the rules",
        "sandbox_ctl:lenient",
        _lenient,
        examples="  token-relay sandbox ctl lenient\n  token-relay sandbox ctl lenient userinfo-openid\n"
        "  token-relay sandbox ctl lenient --clear",
    ),
    "clock": Command(
        "put the provider's clock forward",
        "sandbox_ctl:clock",
        _clock,
        description="Put the provider's clock forward, never back. The clocks of the agents stay as they are.",
        examples="  token-relay sandbox ctl clock +36h",
    ),
    "revoke": Command(
        "end all that a person has signed in to, as an administrator can",
        "sandbox_ctl:revoke",
        _revoke,
        examples="  token-relay sandbox ctl revoke password@contoso.example",
    ),
    "events": Command(
        "list what has happened at the provider, newest last",
        "sandbox_ctl:events",
        _events,
        examples="  token-relay sandbox ctl events --follow",
    ),
}
COMMANDS = with_common(_common, _OWN)
