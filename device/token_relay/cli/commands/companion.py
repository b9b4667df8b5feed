"""The commands of the companion: ``token-relay companion …``. Tables only; see :mod:`.parsing`."""

from __future__ import annotations

from token_relay.cli.parsing import Command, agent_options, seconds, text, with_common

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

KIND = "companion"


def _init(parser: argparse.ArgumentParser) -> None:
    from token_relay.cli.commands.options import init_options

    init_options(parser)


def _events(parser: argparse.ArgumentParser) -> None:
    from token_relay.cli.commands.options import events_options

    events_options(parser)


def _forget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pairing", action="store_true", help="forget the phone as well: a new pairing is needed before a handoff"
    )


def _pair(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-qr", action="store_true", help="print only the invitation's text, no QR code")
    parser.add_argument("--no-wait", action="store_true", help="return at once, do not wait for the phone")


def token_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``token``, the same for both agents."""
    parser.add_argument("--scope", metavar="S", type=text, help="a subset of what was granted; else all of it")
    parser.add_argument("--account", metavar="A", type=text, help="the account, where the agent has several")
    parser.add_argument("--audience", metavar="A", type=text, help="the API that the token is for")
    parser.add_argument(
        "--min-valid",
        metavar="SECONDS",
        type=seconds,
        help="how long the token must be valid at least (default 30); a new one is fetched for it if that helps",
    )
    parser.add_argument("--force-refresh", action="store_true", help="fetch a new token even if a valid one is cached")
    parser.add_argument(
        "--claims",
        metavar="C",
        type=text,
        help="a claims challenge, as a resource's WWW-Authenticate has it: fetch a token that meets it",
    )
    parser.add_argument(
        "--inspect",
        action="store_true",
        help="print the token's header and claims instead of the token; never its signature",
    )


def open_web_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``open-web``, the same for both agents."""
    parser.add_argument("url", metavar="URL", type=text, help="the login address of the web application, https only")
    parser.add_argument("--account", metavar="A", type=text, help="the account, where the agent has several")
    parser.add_argument("--audience", metavar="A", type=text, help="the API of the grant, where the agent has several")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--browser", action="store_true", help="open the system's browser; the default")
    way.add_argument("--print", action="store_true", help="print the address, which signs in whoever opens it first")
    way.add_argument(
        "--cookie-jar",
        metavar="F",
        type=text,
        help="put the token as a cookie into this file (Netscape format, mode 0600), for a web view; print the address",
    )
    parser.add_argument(
        "--cookie-domain",
        metavar="HOST",
        type=text,
        help="the provider's host as the web application names it (a custom domain); else the issuer's",
    )


OPEN_WEB_HELP = """\
Open a web application already signed in. The agent trades its refresh token for a session transfer token, which the
provider takes once and within a minute, and the browser brings it to the web application's login address.

Whoever is behind URL can sign in as you: give only the address of an application that you trust. The system's browser
gets the token from this command over loopback, so it never stands in a command line."""

ACCESS_HELP = """\
Print an access token, alone on one line; with --json, the agent's whole answer.
A valid token comes from the agent's memory without network. Never prints a refresh token.

4 means that the grant is gone or locked and a person must act; 1 that there is no token now (offline, busy,
unknown scope); 5 that the agent's policy does not let this user have one."""

UPKEEP = {  # the same for both agents
    "metrics": Command(
        "print the agent's numbers for Prometheus",
        "agent_calls:metrics",
        description="Print grants by state, refreshes by outcome, what waits in the outbox and the like in Prometheus' "
        "text format. A timer that writes it into node_exporter's textfile directory is enough.",
    ),
    "adopt": Command(
        "make this device the home of a copied vault",
        "agent_calls:adopt",
        description="An agent whose vault was copied from another device stays locked. This command makes this "
        "device the vault's own. Use it only when the other device is gone for good: two copies end each "
        "other's access, and the provider may revoke both.",
    ),
    "doctor": Command(
        "check the installation and say what is wrong with it",
        "doctor:run",
        description="Check home, configuration, clock, disk, vault key, certificates, broker, sockets, unit, agent and "
        "provider, one line each. Exits 1 when a check failed.",
    ),
}
_OWN = {
    "init": Command(
        "make this device's home, key and configuration",
        "init:init",
        _init,
        description="Make the home of the companion's agent: config.toml with every setting explained, the vault "
        "with this device's key, device.key and device.csr for the broker's CA. Prints the device id. "
        "Changes nothing in an existing home without --force, and never touches the vault.",
        examples="  token-relay companion init --broker mqtts://broker.example:8883 --name kitchen\n"
        "  token-relay companion init --broker mqtt://127.0.0.1:1884",
    ),
    "run": Command(
        "run the agent until it is stopped",
        "serve:run_agent",
        description="Run the companion's agent in the foreground until SIGTERM or SIGINT; logs go to standard error.",
    ),
    "status": Command(
        "say what the agent holds, what it waits for and what to do",
        "agent_calls:status",
        examples="  token-relay companion status\n  token-relay companion status --json | jq -r .action.slug",
    ),
    "events": Command("list what happened, newest last", "agent_calls:events", _events),
    **UPKEEP,
    "forget": Command(
        "erase the grant here (and the pairing)",
        "agent_calls:companion_forget",
        _forget,
        description="Erase the grant on this device: it gives no token until the next handoff. The phone is told. "
        "This does not revoke the grant at the provider; `phone revoke` does that where the provider can.",
    ),
    "pair": Command(
        "show an invitation for the phone and wait for it",
        "agent_calls:companion_pair",
        _pair,
        description="Show a new invitation as QR code and text: valid for 10 minutes and for one phone. The text "
        "is alone on the last line of standard output. Then waits for the phone and prints, on "
        "standard error, the check number that both devices must show.",
        examples="  token-relay companion pair\n"
        "  token-relay companion pair --no-qr --no-wait | ssh phone token-relay phone pair --yes -",
    ),
    "token": Command(
        "print an access token",
        "token:run",
        token_options,
        description=ACCESS_HELP,
        examples='  curl -H "Authorization: Bearer $(token-relay companion token)" https://api.example/me\n'
        "  token-relay companion token --scope 'openid' --min-valid 300\n"
        "  token-relay companion token --inspect",
    ),
    "open-web": Command(
        "open a web application already signed in",
        "open_web:run",
        open_web_options,
        description=OPEN_WEB_HELP,
        examples="  token-relay companion open-web https://shop.example/login\n"
        "  token-relay companion open-web https://shop.example/ --cookie-jar jar --cookie-domain id.shop.example",
    ),
}
COMMANDS = with_common(lambda parser: agent_options(parser, KIND), _OWN)
