"""The commands that need no agent: ``demo``, ``try`` and ``sandbox``. Tables only; see :mod:`.parsing`."""

from __future__ import annotations

import argparse

from token_relay.cli.commands.options import PORT_MAX, profile_option
from token_relay.cli.parsing import HTTP_PORT, LAB_PORT, MQTT_PORT, Command, json_option, seconds, text, whole

PROFILES = ("entra", "auth0", "strict")


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fast", action="store_true", help="no pauses for reading")
    parser.add_argument("--step", action="store_true", help="wait for the return key before each part")
    parser.add_argument("--profile", choices=PROFILES, default="entra", help="the provider to show (default entra)")


def _try(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile", choices=PROFILES, default="entra", help="the provider that the sandbox imitates (default entra)"
    )
    parser.add_argument(
        "--home",
        metavar="DIR",
        type=text,
        help="make both homes and the logs in this new directory, and leave them there; else in a temporary one",
    )
    json_option(parser)


# Long as a list is: one call for each option, in the order of the help.
def _sandbox(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--http-port",
        metavar="PORT",
        type=whole(0, PORT_MAX),
        default=HTTP_PORT,
        help=f"port of the provider on 127.0.0.1, 0 for any free one (default {HTTP_PORT})",
    )
    parser.add_argument(
        "--mqtt-port",
        metavar="PORT",
        type=whole(0, PORT_MAX),
        default=MQTT_PORT,
        help=f"port of the embedded broker on 127.0.0.1, 0 for any free one (default {MQTT_PORT})",
    )
    profile_option(
        parser, "which provider to imitate (default entra); `token-relay docs sandbox` names them", default="entra"
    )
    parser.add_argument(
        "--world", metavar="F.toml", type=text, help="users, clients, policy and faults to start with, as TOML"
    )
    parser.add_argument(
        "--access-token-lifetime",
        metavar="SECONDS",
        type=seconds,
        help="how long access tokens live; else as the profile",
    )
    parser.add_argument(
        "--http-host",
        metavar="NAME",
        type=text,
        default="127.0.0.1",
        help="name of the provider in its URLs (default 127.0.0.1); one that other machines use needs --tls-cert",
    )
    parser.add_argument("--tls-cert", metavar="F", type=text, help="serve https with this certificate")
    parser.add_argument("--tls-key", metavar="F", type=text, help="private key of --tls-cert")
    parser.add_argument(
        "--issuer-path",
        metavar="PATH",
        type=text,
        help="path of the issuer after its host, for libraries that need one; not with profile entra",
    )
    parser.add_argument(
        "--cors",
        metavar="ORIGIN",
        action="append",
        type=text,
        default=[],
        help="let web pages of this origin call the provider, for development; may be given several times",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=whole(0, 2**31 - 1),
        help="seed of the randomness: the same seed and clock give the same tokens",
    )
    parser.add_argument(
        "--network-table",
        metavar="F.toml",
        type=text,
        help="which address is in which autonomous system and country, as TOML",
    )
    parser.add_argument(
        "--actions",
        metavar="F.py",
        type=text,
        help="run the post-login Actions of this file, with profile auth0; it is a program, and runs as you",
    )
    parser.add_argument(
        "--links",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="listen also on four links that lead to provider and broker and can be cut (default)",
    )
    parser.add_argument(
        "--lab",
        action="store_true",
        help="open the lab too: pages about this provider, and about a handoff; its address is printed, "
        "and a new one at each Enter",
    )
    parser.add_argument(
        "--lab-port",
        metavar="PORT",
        type=whole(0, PORT_MAX),
        default=LAB_PORT,
        help=f"port of the lab on 127.0.0.1, 0 for any free one (default {LAB_PORT})",
    )
    json_option(parser)


COMMANDS = {
    "demo": Command(
        "show the whole story on this machine, without root and network",
        "sandbox:demo",
        _demo,
        description="Show the whole story: sign-in, pairing, handoff, the phone away, revocation, against the "
        "sandbox. Exits 0 only if every step worked.",
        examples="  token-relay demo --fast\n  token-relay demo --step --profile auth0",
    ),
    "try": Command(
        "run a sandbox and two agents with a first handoff, and say what to type next",
        "sandbox:try_out",
        _try,
        description="Run a sandbox, a phone and a companion on this machine, sign a person in, pair the two and hand "
        "off. All of it goes on until Ctrl-C, so that every command can be tried in another terminal; the lines to "
        "begin with are printed. With --json, one object on one line when all is ready.",
        examples="  token-relay try\n  token-relay try --profile auth0 --home here",
    ),
    "sandbox": Command(
        "run an identity provider and a broker for development",
        "sandbox:sandbox",
        _sandbox,
        description="Run an identity provider and a small MQTT broker on this machine, for development and tests. "
        "State is in memory. The control interface is under /sandbox/; `sandbox ctl` uses it: links are cut, faults "
        "armed, the clock put forward. Not for real accounts.",
        examples="  token-relay sandbox\n  token-relay sandbox --profile strict --access-token-lifetime 60 --json\n"
        "  token-relay sandbox ctl cut companion-provider",
    ),
}
