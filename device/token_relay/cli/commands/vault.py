"""The commands of an agent's vault: ``token-relay vault …``. Table and handler; see :mod:`.service.rekey`."""

from __future__ import annotations

import sys
from pathlib import Path

from token_relay.cli.parsing import DONE, PENDING, Command, Context, UsageError, json_option, text, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from token_relay.service.rekey import Target

KINDS = ("passphrase", "file", "credential")
MEMORY_MIB_MIN, MEMORY_MIB_MAX, MEMORY_MIB = 64, 1024, 256
KEY_INPUT_BYTES_MAX = 128


def _rekey(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", choices=KINDS, required=True, help="the source of the new key")
    parser.add_argument(
        "--home", metavar="DIR", type=text, help="home of the agent; else $TOKEN_RELAY_HOME, $STATE_DIRECTORY"
    )
    parser.add_argument("--config", metavar="FILE", type=text, help="configuration; else config.toml in the home")
    parser.add_argument("--passphrase-file", metavar="F", type=text, help="with passphrase: file with it, 0600")
    parser.add_argument(
        "--memory",
        metavar="MIB",
        type=whole(MEMORY_MIB_MIN, MEMORY_MIB_MAX),
        default=MEMORY_MIB,
        help=f"with passphrase: memory of a guess, {MEMORY_MIB_MIN} to {MEMORY_MIB_MAX} MiB (default {MEMORY_MIB})",
    )
    parser.add_argument(
        "--key-file", metavar="F", type=text, help="with file: where it goes; else vault.key in the home, or beside it"
    )
    parser.add_argument("--credential", metavar="NAME", type=text, help="with credential: its name")
    parser.add_argument(
        "--credential-from",
        metavar="F",
        type=text,
        help="with credential: file with its 32 bytes, - for standard input; else $CREDENTIALS_DIRECTORY",
    )
    json_option(parser)


COMMANDS = {
    "rekey": Command(
        "move the vault to another key",
        "vault:rekey",
        _rekey,
        description="Copy the vault to a new key and let the copy replace it. The agent must be stopped. A power "
        "cut at any moment leaves a vault that opens with the key the configuration names. Where the configuration "
        "cannot be written here, the copy waits and the setting to write is printed: exit code 6.",
        examples="  token-relay vault rekey --home ~/.local/state/token-relay/companion --to passphrase \\\n"
        "      --passphrase-file ~/passphrase\n"
        "  systemd-creds decrypt /etc/credstore.encrypted/vault - | \\\n"
        "      token-relay vault rekey --home H --to credential --credential vault --credential-from -",
    ),
}

OPTIONS = {
    "passphrase_file": "passphrase",
    "key_file": "file",
    "credential": "credential",
    "credential_from": "credential",
}


def rekey(args: argparse.Namespace, context: Context) -> int:
    """``vault rekey``."""
    import asyncio

    from token_relay.cli.render import show
    from token_relay.host.systemd import harden_process
    from token_relay.service.rekey import rekey as do

    harden_process()
    home = _home(args, context)
    config = home / "config.toml" if args.config is None else Path(args.config).absolute()
    done = asyncio.run(do(home, config, _target(args), context.env))
    for path in done.erased:
        context.note(f"erased {path}: an interrupted change of the key had left it")
    if context.as_json:
        old = None if done.old_key is None else str(done.old_key)
        show(
            context,
            {"pending": done.is_pending, "setting": done.line, "remove": old, "vault": {"detail": done.describes}},
        )
        return PENDING if done.is_pending else DONE
    if done.is_pending:
        context.note(f"the copy waits. Write into [vault] of {config}, with the others there as comments:")
        context.out(done.line)
        context.note("then start the agent: it opens the copy, which takes the vault's place")
        if done.old_key is not None:
            context.note(f"and then remove {done.old_key}")
        return PENDING
    context.out(f"done: {done.describes}")
    if done.old_key is not None:
        context.note(f"{done.old_key} is left; remove it if no other vault uses it")
    return DONE


def _home(args: argparse.Namespace, context: Context) -> Path:
    chosen = args.home or context.env.get("TOKEN_RELAY_HOME") or context.env.get("STATE_DIRECTORY", "").split(":")[0]
    if not chosen:
        raise UsageError("phone and companion have a home each, and --home DIR does not say whose")
    return Path(chosen).absolute()


def _target(args: argparse.Namespace) -> Target:
    from token_relay.host.config_file import read_secret_file
    from token_relay.service.rekey import ToCredential, ToFile, ToPassphrase
    from token_relay.vault.files import read_file

    for option, kind in OPTIONS.items():
        if getattr(args, option) is not None and kind != args.to:
            raise UsageError(f"--{option.replace('_', '-')} goes with --to {kind}")
    if args.to == "file":
        return ToFile(None if args.key_file is None else Path(args.key_file))
    if args.to == "passphrase":
        if args.passphrase_file is None:
            raise UsageError("--to passphrase needs --passphrase-file, which the agent reads at each start")
        file = Path(args.passphrase_file)
        return ToPassphrase(file, read_secret_file(file, "passphrase", is_exact=True), args.memory * 1_048_576)
    if args.credential is None:
        raise UsageError("--to credential needs --credential NAME")
    content: bytes | None = None
    if args.credential_from == "-":
        content = sys.stdin.buffer.read(KEY_INPUT_BYTES_MAX)
    elif args.credential_from is not None:
        content = read_file(Path(args.credential_from), bytes_max=KEY_INPUT_BYTES_MAX)
    return ToCredential(args.credential, content)
