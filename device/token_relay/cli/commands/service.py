"""The commands of the machine's services: ``token-relay service …``. Table and handlers; see :mod:`.host.install`."""

from __future__ import annotations

import sys
from pathlib import Path

from token_relay.cli.parsing import DONE, Command, Context, UsageError, json_option, text, with_common

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from token_relay.host.install import Places

NEXT_STEP = """\
next, for a companion (a phone's agent likewise):
  1. its broker and name:   sudoedit /etc/token-relay/companion.toml
  2. a key for its vault:   head -c 32 /dev/urandom | sudo systemd-creds encrypt - \\
                              /etc/credstore.encrypted/token-relay-companion
  3. start it:              sudo systemctl enable --now token-relay-companion
  4. what is missing:       sudo token-relay companion doctor"""
NEXT_STEP_OF_A_USER = """\
next, after `token-relay companion init` (a phone's agent likewise):
  1. start it, now and at every login:   systemctl --user daemon-reload
                                         systemctl --user enable --now token-relay-companion
  2. to run while you are logged out:    loginctl enable-linger"""


def _places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--user",
        action="store_true",
        help="units for your own manager (systemctl --user), without root: agents with the homes of "
        "~/.local/state/token-relay; no group, no link, no configuration",
    )
    parser.add_argument(
        "--root", metavar="DIR", type=text, default="/", help="lay the files out below DIR, for a package (default /)"
    )
    parser.add_argument(
        "--prefix", metavar="DIR", type=text, help="where units and link go (default /usr/local); not with --user"
    )
    parser.add_argument(
        "--program",
        metavar="DIR",
        type=text,
        help="environment of the program as the units will see it; else the one that runs this",
    )
    json_option(parser)


_OWN = {
    "install": Command(
        "bring units and configuration into the system",
        "service:install",
        description="Bring units, the group token-relay, manual pages, completion, a commented configuration and the "
        "link /usr/local/bin/token-relay into the system. Starts nothing. A second run changes nothing; configuration "
        "that is there already stays.",
        examples="  sudo token-relay service install\n  token-relay service install --user\n"
        "  token-relay service install --root package --prefix /usr",
    ),
    "uninstall": Command(
        "stop the services and remove what install brought",
        "service:uninstall",
        description="Stop and disable the services and remove what install brought. Data in /var/lib/token-relay, "
        "sealed credentials, the group, and configuration that was changed stay. The program's own environment "
        "stays as well.",
        examples="  sudo token-relay service uninstall\n  token-relay service uninstall --user",
    ),
}
COMMANDS = with_common(_places, _OWN)


def install(args: argparse.Namespace, context: Context) -> int:
    """``service install``."""
    from token_relay.host import install as do

    places = _of(args)
    if args.user:
        changed = do.write(do.user_files(_user_directory(places.root, context), places.program, do.sources()))
    else:
        changed = do.install(places, do.sources())
        if do.is_booted(places.root) and changed:
            do.tell_system(do.SETUP, context.note)
    if context.as_json:
        from token_relay.cli.render import show

        show(context, {"changed": [str(path) for path in changed]})
        return DONE
    for path in changed:
        context.out(f"installed {path}")
    if not changed:
        context.out("everything is in place: nothing was changed")
    context.note(NEXT_STEP_OF_A_USER if args.user else NEXT_STEP)
    return DONE


def uninstall(args: argparse.Namespace, context: Context) -> int:
    """``service uninstall``."""
    from token_relay.host import install as do

    places, stays = _of(args), list[Path]()
    systemctl = ("systemctl", "--user") if args.user else ("systemctl",)
    is_managed = _has_manager(context) and places.root == Path("/") if args.user else do.is_booted(places.root)
    if is_managed:
        units = do.SERVICES if args.user else (*do.SERVICES, *do.SOCKETS)
        do.tell_system(((*systemctl, "disable", "--now", *units),), context.note)
    if args.user:
        removed = do.uninstall_user(_user_directory(places.root, context), places.program, do.sources())
    else:
        removed, stays = do.uninstall(places, do.sources())
    if is_managed:
        do.tell_system(((*systemctl, "daemon-reload"),), context.note)
    if context.as_json:
        from token_relay.cli.render import show

        show(context, {"removed": [str(path) for path in removed], "kept": [str(path) for path in stays]})
        return DONE
    for path in removed:
        context.out(f"removed {path}")
    for path in stays:
        context.out(f"kept {path}: it was changed")
    if args.user:
        context.note("kept: the homes in ~/.local/state/token-relay")
    else:
        context.note(
            f"kept: data in /var/lib/token-relay, credentials, the group. The program: sudo rm -r {places.program}"
        )
    return DONE


def _user_directory(root: Path, context: Context) -> Path:
    """Return where the user's own units lie, inside the root. systemd.unit(5)"""
    given = context.env.get("XDG_CONFIG_HOME", "")
    home = context.env.get("HOME", "")
    if not home.startswith("/"):
        raise UsageError("HOME is not set", hint="run it as the user whose agents these are")
    own = Path(given) if given.startswith("/") else Path(home) / ".config"
    return root.joinpath(*own.parts[1:], "systemd", "user")


def _has_manager(context: Context) -> bool:
    return Path(context.env.get("XDG_RUNTIME_DIR", "/nonexistent"), "systemd").is_dir()


def _of(args: argparse.Namespace) -> Places:
    from token_relay.host.install import Places

    if args.user and args.prefix:
        raise UsageError("--prefix does not go with --user: their place is ~/.config/systemd/user")
    given = {"--root": args.root, "--prefix": args.prefix or "/usr/local", "--program": args.program or sys.prefix}
    for option, value in given.items():
        if option != "--root" and (not value.startswith("/") or ".." in Path(value).parts):
            raise UsageError(f"{option} must be an absolute path")
    return Places(Path(args.root).absolute(), Path(given["--prefix"]), Path(given["--program"]))
