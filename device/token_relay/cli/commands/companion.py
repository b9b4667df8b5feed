"""The commands of the companion: ``token-relay companion …``. Tables only; see :mod:`.parsing`."""

from __future__ import annotations

from token_relay.cli.parsing import Command, agent_options, device_name, seconds, text, whole, with_common

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

KIND = "companion"


def status_options(parser: argparse.ArgumentParser) -> None:
    """Add what a timer asks for."""
    parser.add_argument(
        "--exit-code", action="store_true", help="exit with 4 when a person must act, for cron; else that is 0 too"
    )


def _init(parser: argparse.ArgumentParser) -> None:
    from token_relay.cli.commands.options import client_options, init_options

    init_options(parser)
    client = client_options(parser, "a confidential client: this device's own secret or key, which no grant brings")
    client.add_argument("--client-issuer", metavar="URL", type=text, help="the provider's issuer")
    client.add_argument("--client-id", metavar="ID", type=text, help="the client id there")
    parser.add_argument(
        "--provider-host",
        metavar="HOST",
        action="append",
        type=text,
        help="HOST or HOST:PORT that a grant may send this device to; needed for this machine; may be given several "
        "times",
    )


def _events(parser: argparse.ArgumentParser) -> None:
    from token_relay.cli.commands.options import events_options

    events_options(parser, "PHONE")


def _forget(parser: argparse.ArgumentParser) -> None:
    from token_relay.cli.commands.options import yes_option

    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--phone", metavar="PHONE", type=text, help="forget this phone alone, with all that came of it")
    whose.add_argument(
        "--pairing", action="store_true", help="forget the phones as well: a new pairing is needed before a handoff"
    )
    yes_option(parser)


def _primary(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("phone", metavar="PHONE", type=text, help="the phone's name, id, or the beginning of its id")


def _rename(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", type=device_name, help="what this device calls itself from now on")


def _token(parser: argparse.ArgumentParser) -> None:
    token_options(parser)
    _whose(parser)


def _whose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--phone", metavar="PHONE", type=text, help="the phone that brought the grant; else the primary phone"
    )


def _open_web(parser: argparse.ArgumentParser) -> None:
    open_web_options(parser)
    _whose(parser)


def _pair(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-qr", action="store_true", help="print only the invitation's text, no QR code")
    parser.add_argument(
        "--invert",
        action="store_true",
        help="draw the QR code the other way round: light on dark, without colours for dark text on a light ground",
    )
    parser.add_argument("--no-wait", action="store_true", help="return at once, do not wait for the phone")


def token_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``token``, the same for both agents."""
    parser.add_argument("--scope", metavar="S", type=text, help="a subset of what was granted; else all of it")
    parser.add_argument("--account", metavar="A", type=text, help="the account, where the agent has several")
    parser.add_argument("--issuer", metavar="URL", type=text, help="the provider's issuer, where there are several")
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
    parser.add_argument("--issuer", metavar="URL", type=text, help="the provider's issuer, where there are several")
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
unknown scope, several grants that fit); 5 that the agent's policy does not let this user have one."""


def _console(parser: argparse.ArgumentParser) -> None:
    from token_relay.cli.commands.options import PORT_MAX

    parser.add_argument("--port", metavar="N", type=whole(0, PORT_MAX), default=0, help="port on 127.0.0.1; else any")


UPKEEP = {  # the same for both agents
    "console": Command(
        "show the agent's pages in a browser on this machine",
        "console:run",
        _console,
        description="Serve the agent's pages on a port of 127.0.0.1 and print one address with a key that works once; "
        "Enter prints a fresh one. Only this user's browser is let in, and with sudo that of the user who typed it. "
        "The pages end with this command, or after half an hour without a request; the agent goes on.",
    ),
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
        "  token-relay companion init --broker mqtt://127.0.0.1:1884 --provider-host 127.0.0.1:8400",
    ),
    "run": Command(
        "run the agent until it is stopped",
        "serve:run_agent",
        description="Run the companion's agent in the foreground until SIGTERM or SIGINT; logs go to standard error.",
    ),
    "status": Command(
        "say what the agent holds, what it waits for and what to do",
        "agent_calls:status",
        status_options,
        examples="  token-relay companion status\n  token-relay companion status --json | jq -r .action.slug",
    ),
    "events": Command("list what happened, newest last", "agent_calls:events", _events),
    **UPKEEP,
    "forget": Command(
        "erase the grants here (and the pairings), or one phone",
        "agent_calls:companion_forget",
        _forget,
        description="Erase the grants on this device: it gives no token until the next handoff. The phones are told. "
        "With --phone only one phone goes, such as a lost one, and the others stay as they are. "
        "This does not revoke the grant at the provider; `phone revoke` does that where the provider can.",
    ),
    "primary": Command(
        "choose the phone whose grants apps get",
        "agent_calls:companion_primary",
        _primary,
        description="Make a phone primary: apps that name no phone get tokens of its grants, and of no other's. The "
        "first phone is primary until this command says otherwise.",
    ),
    "rename": Command(
        "give this device another name",
        "agent_calls:companion_rename",
        _rename,
        description="Give this device another name, of which each phone hears when it connects. A phone whose person "
        "has named the device keeps that name and shows the other one beside it. The setting `name` stays as it is: "
        "the last change counts, so a change of the setting is the next new name.",
    ),
    "pair": Command(
        "show an invitation for the phone and wait for it",
        "companion_pair:companion_pair",
        _pair,
        description="Show a new invitation as QR code and text: valid for 10 minutes and for one phone. The text "
        "is alone on the last line of standard output. Then waits for the phone and prints, on "
        "standard error, the check number that both devices must show. On a terminal, an invitation that came to "
        "nothing is followed by a fresh one, three times at most.",
        examples="  token-relay companion pair\n"
        "  token-relay companion pair --no-qr --no-wait | ssh phone token-relay phone pair --yes -",
    ),
    "token": Command(
        "print an access token",
        "token:run",
        _token,
        description=ACCESS_HELP,
        examples='  curl -H "Authorization: Bearer $(token-relay companion token)" https://api.example/me\n'
        "  token-relay companion token --scope 'openid' --min-valid 300\n"
        "  token-relay companion token --inspect",
    ),
    "open-web": Command(
        "open a web application already signed in",
        "open_web:run",
        _open_web,
        description=OPEN_WEB_HELP,
        examples="  token-relay companion open-web https://shop.example/login\n"
        "  token-relay companion open-web https://shop.example/ --cookie-jar jar --cookie-domain id.shop.example",
    ),
}
COMMANDS = with_common(lambda parser: agent_options(parser, KIND), _OWN)
