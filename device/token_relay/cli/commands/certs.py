"""The commands of the broker's private CA: ``token-relay certs …``. Table and handlers.

The handlers call :mod:`token_relay.ca.store`, which decides everything, and print its result.
"""

from __future__ import annotations

from pathlib import Path

from token_relay.cli.commands.options import PORT_MAX
from token_relay.cli.parsing import DONE, PERSON, Command, Context, json_option, text, whole, with_common

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from token_relay.ca.store import Entry

CA_DIRECTORY = "token-relay-ca"


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dir", metavar="DIR", type=text, default=CA_DIRECTORY, help=f"directory of the CA (default ./{CA_DIRECTORY})"
    )
    json_option(parser)


def _init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host",
        metavar="HOST",
        type=text,
        action="append",
        default=[],
        help="make the broker's certificate too, for this host name or address; may be repeated",
    )
    parser.add_argument("--port", metavar="PORT", type=whole(1, PORT_MAX), help="port of the broker (default 8883)")
    parser.add_argument(
        "--force", action="store_true", help="set an existing CA aside: every device needs a new certificate then"
    )


def _sign(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("csr", metavar="CSR", type=text, help="the device's request, device.csr")
    parser.add_argument("--out", metavar="F", type=text, help="where the certificate goes; else beside CSR, as .pem")


def _issue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("host", metavar="HOST", type=text, nargs="+", help="host name or IP address of the broker")


def _revoke(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", type=text, help="a device id, or a host of the broker")


_OWN = {
    "init": Command(
        "make a CA and the broker's configuration",
        "certs:init",
        _init,
        description="Make a private CA and, in its directory broker/, all that mosquitto needs: configuration, "
        "access list, revocation list and, with --host, the broker's certificate.",
        examples="  token-relay certs init --host broker.example --host 192.168.1.10\n"
        "  mosquitto -c token-relay-ca/broker/mosquitto.conf",
    ),
    "sign": Command(
        "sign a device's request, the first time or to renew",
        "certs:sign",
        _sign,
        description="Sign the device.csr that `init` wrote on a device. Compare the id with the device's own "
        "screen first: the first signature trusts the request. The device needs the certificate and ca.pem in its "
        "home.",
        examples="  token-relay certs sign kitchen/device.csr\n  token-relay certs sign device.csr --out device.pem",
    ),
    "issue": Command(
        "make a new key and certificate for the broker",
        "certs:issue",
        _issue,
        examples="  token-relay certs issue broker.example 192.168.1.10",
    ),
    "renew": Command(
        "renew the broker's certificate if it ends soon, and name the devices that are due",
        "certs:renew",
        description="Renew the broker's certificate when it ends within 30 days, and name the devices whose "
        "certificates do: sign their device.csr again. Does nothing when nothing is due, so a "
        "timer may run it.",
    ),
    "revoke": Command(
        "put a device's certificates on the revocation list",
        "certs:revoke",
        _revoke,
        description="Put every certificate of a device id on the revocation list. The broker learns of it when it "
        "starts again. The device is then refused by the broker; `phone revoke` takes its grant away.",
        examples="  token-relay certs revoke abcdefghijklmnopqrstuvwxyz",
    ),
    "list": Command("list the certificates that were signed", "certs:list_all"),
}
COMMANDS = with_common(_common, _OWN)


# -- Handlers ----------------------------------------------------------------------------------------------


def _clean(args: argparse.Namespace, context: Context, out: Path | None = None) -> None:
    """Clean up after a command that was killed, and say so."""
    from token_relay.ca import store as certs

    for path in certs.clean(Path(args.dir), out):
        context.note(f"removed {path}: a command that was killed had left it")


def init(args: argparse.Namespace, context: Context) -> int:
    """Make the CA."""
    from token_relay.ca import store as certs

    _clean(args, context)
    port = {} if args.port is None else {"port": args.port}
    made = certs.init(Path(args.dir), hosts=tuple(args.host), force=args.force, **port)
    result = {
        "ca_certificate": str(made.ca_certificate),
        "key_sha256": made.fingerprint,
        "mosquitto_conf": str(made.conf),
        "acl": str(made.acl),
        "broker_certificate": None if made.broker is None else str(made.broker.path),
        "set_aside": None if made.set_aside is None else str(made.set_aside),
    }
    if made.broker is None:
        context.note("the broker has no certificate yet: token-relay certs issue HOST")
    return _show(context, result)


def sign(args: argparse.Namespace, context: Context) -> int:
    """Sign a request."""
    from token_relay.ca import store as certs

    csr = Path(args.csr)
    out = csr.with_suffix(".pem") if args.out is None else Path(args.out)
    _clean(args, context, out)
    issued = certs.sign(Path(args.dir), csr, out)
    context.note(f"give the device this certificate and {Path(args.dir) / certs.CA_CERTIFICATE}")
    return _show(context, {**_entry(issued.entry), "certificate": str(issued.path)})


def issue(args: argparse.Namespace, context: Context) -> int:
    """Make the broker's key and certificate."""
    from token_relay.ca import store as certs

    _clean(args, context)
    issued = certs.issue(Path(args.dir), *args.host)
    context.note(certs.RELOAD_HINT)
    return _show(context, {**_entry(issued.entry), "certificate": str(issued.path)})


def renew(args: argparse.Namespace, context: Context) -> int:
    """Renew the broker's certificate; exit 4 when devices or the broker need a person."""
    from token_relay.ca import store as certs

    _clean(args, context)
    done = certs.renew(Path(args.dir))
    result = {
        "renewed": None if done.renewed is None else str(done.renewed.path),
        "broker": None if done.broker is None else _entry(done.broker),
        "due": [_entry(entry) for entry in done.due],
    }
    if done.renewed is not None:
        context.note(certs.RELOAD_HINT)
    _show(context, result)
    if done.broker is None:
        context.note("the broker has no certificate: token-relay certs issue HOST")
    if done.due:
        context.note("sign the device.csr of the devices that are due again: token-relay certs sign CSR")
    return PERSON if done.due or done.broker is None else DONE


def revoke(args: argparse.Namespace, context: Context) -> int:
    """Put a name's certificates on the list."""
    from token_relay.ca import store as certs

    _clean(args, context)
    done = certs.revoke(Path(args.dir), args.name)
    context.note(certs.RELOAD_HINT)
    return _show(
        context,
        {"name": done.name, "revoked": len(done.entries), "newly_revoked": done.newly, "crl": str(done.crl)},
    )


def list_all(args: argparse.Namespace, context: Context) -> int:
    """List every certificate that the CA remembers."""
    from token_relay.ca import store as certs

    return _show(context, {"certificates": [_entry(entry) for entry in certs.list_issued(Path(args.dir))]})


def _entry(entry: Entry) -> dict[str, object]:
    return {
        "name": entry.name,
        "kind": entry.kind,
        "hosts": list(entry.hosts),
        "serial": entry.serial,
        "not_after": f"{entry.not_after:%Y-%m-%dT%H:%M:%SZ}",
        "revoked_at": None if entry.revoked_at is None else f"{entry.revoked_at:%Y-%m-%dT%H:%M:%SZ}",
    }


def _show(context: Context, result: Mapping[str, object]) -> int:
    from token_relay.cli.render import show

    show(context, result)
    return DONE
