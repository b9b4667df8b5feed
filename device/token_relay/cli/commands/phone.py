"""The commands of the phone: ``token-relay phone …``. Tables only; see :mod:`.parsing`."""

from __future__ import annotations

from token_relay.cli.commands.companion import (
    ACCESS_HELP,
    OPEN_WEB_HELP,
    UPKEEP,
    open_web_options,
    status_options,
    token_options,
)
from token_relay.cli.commands.options import (
    device_argument,
    events_options,
    init_options,
    new_account_options,
    provider_options,
    reset_options,
    sign_in_options,
    wait_option,
    yes_option,
)
from token_relay.cli.parsing import Command, agent_options, device_name, seconds, text, whole, with_common

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

KIND = "phone"
STRATEGIES = ("branch", "mint", "move")
LEASE_DAYS_MAX = 365
DEVICES_LIMIT, DEVICES_LIMIT_MAX = 100, 500
ANSWER_WAIT_S, ANSWER_WAIT_S_MAX = 2.0, 30.0  # a living device answers within milliseconds
HANDOFF_WAIT_S = 60.0  # a companion on a slow network needs seconds; a person waits no longer than a minute
REVOKE_WAIT_S = 10.0  # a companion that is online answers by then; one that is not may take days


def _init(parser: argparse.ArgumentParser) -> None:
    provider_options(parser)
    init_options(parser)


def _sign_in(parser: argparse.ArgumentParser) -> None:
    sign_in_options(parser, is_required=True)


def _import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--refresh-token-file",
        metavar="F|-",
        type=text,
        required=True,
        help="file with the refresh token in its first line, - for standard input",
    )


def _invitation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "invitation",
        metavar="INVITATION",
        nargs="*",
        help="what the companion shows, RTR1:…; - reads it from standard input; asked for when absent",
    )


def _pair(parser: argparse.ArgumentParser) -> None:
    _invitation(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask whether both devices show the same number")
    parser.add_argument(
        "--as",
        dest="name",
        metavar="NAME",
        type=device_name,
        help="what the device is called here; else as it calls itself, or asked for where that could mean another",
    )


def _rename(parser: argparse.ArgumentParser) -> None:
    device_argument(parser)
    parser.add_argument("name", metavar="NAME", type=device_name, help="what it is called here from now on")


def _replace(parser: argparse.ArgumentParser) -> None:
    device_argument(parser)
    _invitation(parser)
    parser.add_argument(
        "--as",
        dest="name",
        metavar="NAME",
        type=device_name,
        help="what the new companion is called; else as the old one is",
    )
    yes_option(parser)
    _terms(parser)


def _handoff(parser: argparse.ArgumentParser) -> None:
    device_argument(parser)
    _terms(parser)


def _terms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--account", metavar="A", type=text, help="whose grant, where several accounts are signed in; else asked for"
    )
    parser.add_argument(
        "--strategy", choices=STRATEGIES, help="how the companion's token comes about; else what the profile chooses"
    )
    parser.add_argument("--scope", metavar="S", type=text, help="what the companion may do; else the configured scope")
    parser.add_argument(
        "--lease-days",
        metavar="N",
        type=whole(0, LEASE_DAYS_MAX),
        help="days it may go on without word from this phone, 1 to 365, 0 for no limit; else as configured (90)",
    )
    wait_option(parser, HANDOFF_WAIT_S, "the companion to say that the grant is on its disk")
    sign_in_options(parser, is_required=False)


def _sign_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--account", metavar="A", type=text, help="this account alone, where several are signed in; else asked for"
    )


def _ask_about(parser: argparse.ArgumentParser) -> None:
    device_argument(parser)
    yes_option(parser)


def _devices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "device",
        metavar="DEVICE",
        nargs="?",
        type=text,
        help="show this one whole: its id, its name, or the beginning of its id",
    )
    parser.add_argument("--only", choices=("needs-me",), metavar="needs-me", help="only those that need a person")
    parser.add_argument("--watch", action="store_true", help="show the list again whenever it changes, until Ctrl-C")
    parser.add_argument(
        "--limit",
        metavar="N",
        type=whole(1, DEVICES_LIMIT_MAX),
        default=DEVICES_LIMIT,
        help=f"how many at most, 1 to {DEVICES_LIMIT_MAX} (default {DEVICES_LIMIT})",
    )
    parser.add_argument(
        "--after", metavar="PLACE", type=text, help="go on from here: what the page before says at its end"
    )
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=seconds,
        default=ANSWER_WAIT_S,
        help=f"how long to wait for the devices' answers, 0 to {ANSWER_WAIT_S_MAX:.0f}; 0 asks them nothing "
        f"(default {ANSWER_WAIT_S:g})",
    )


def _revoke(parser: argparse.ArgumentParser) -> None:
    device_argument(parser)
    parser.add_argument(
        "--lost",
        action="store_true",
        help="the device is lost or stolen: do all that can be done and print it as a list",
    )
    yes_option(parser)
    wait_option(parser, REVOKE_WAIT_S, "the companion to confirm")


_OWN = {
    "init": Command(
        "make this device's home, key and configuration",
        "init:init",
        _init,
        description="Make the home of the phone's agent: config.toml with every setting explained, the vault with "
        "this device's key, device.key and device.csr for the broker's CA. Prints the device id. "
        "Changes nothing in an existing home without --force, and never touches the vault.",
        examples="  token-relay phone init --provider https://contoso.ciamlogin.com --client-id ID \\\n"
        "      --tenant contoso --broker mqtts://broker.example:8883 --allow-refresh-token-access\n"
        "  token-relay phone init --provider http://127.0.0.1:8400 --profile entra --tenant contoso \\\n"
        "      --client-id 00001111-aaaa-2222-bbbb-3333cccc4444 --broker mqtt://127.0.0.1:1884",
    ),
    "run": Command(
        "run the agent until it is stopped",
        "serve:run_agent",
        description="Run the phone's agent in the foreground until SIGTERM or SIGINT; logs go to standard error.",
    ),
    "status": Command(
        "say what the agent holds, what it waits for and what to do",
        "agent_calls:status",
        status_options,
        examples="  token-relay phone status\n  token-relay phone status --json | jq -r .action.slug\n"
        "  token-relay phone status --exit-code",
    ),
    "devices": Command(
        "list the paired companions, those that need a person first",
        "devices:run",
        _devices,
        description="List the paired companions: state, name, account, last heard, lease left, and what to do. What "
        "needs a person comes first, then what is silent. The devices shown are asked whether they are there, at most "
        "each 10 seconds; one that does not answer is silent. DEVICE shows one of them whole.",
        examples="  token-relay phone devices\n  token-relay phone devices --only needs-me\n"
        "  token-relay phone devices --watch\n  token-relay phone devices kitchen",
    ),
    "events": Command("list what happened, newest last", "agent_calls:events", events_options),
    "token": Command(
        "print an access token of the signed-in account",
        "token:run",
        token_options,
        description=ACCESS_HELP,
        examples="  token-relay phone token --scope openid\n  token-relay phone token --inspect",
    ),
    "open-web": Command(
        "open a web application already signed in",
        "open_web:run",
        open_web_options,
        description=OPEN_WEB_HELP,
        examples="  token-relay phone open-web https://shop.example/login",
    ),
    "sign-in": Command(
        "sign in at the provider",
        "agent_calls:sign_in",
        _sign_in,
        description="Sign in at the provider, without a browser (password or e-mail code, where the provider has "
        "such endpoints) or with one. What else the provider wants is asked for: which second factor, or which address "
        "to register as one. An empty answer for a code sends a new one. Secrets come from prompts, files, standard "
        "input or a command, never from the command line. With - for both files, the first line of standard input is "
        "the password.",
        examples="  token-relay phone sign-in --username otp@contoso.example --otp-file /tmp/code\n"
        "  token-relay phone sign-in --username U --password-file - < password\n"
        "  token-relay phone sign-in --username U --otp-command 'curl -fs http://127.0.0.1:8400/sandbox/mailbox/U'\n"
        "  token-relay phone sign-in --browser --no-open",
    ),
    "sign-up": Command(
        "make an account at the provider and sign in with it",
        "agent_calls:sign_up",
        new_account_options,
        description="Make an account at the provider, without a browser, where the provider has such endpoints. A code "
        "proves the address, then a password is chosen and the tenant's questions are answered. The person is signed "
        "in afterwards if the provider lets it; exit code 0 means that the account exists.",
        examples="  token-relay phone sign-up --username ann@contoso.example\n"
        "  token-relay phone sign-up --username U --password-file pw --attributes-file me.json --otp-command CMD",
    ),
    "reset-password": Command(
        "choose a new password at the provider",
        "agent_calls:reset_password",
        reset_options,
        description="Choose a new password, without a browser: a code proves the address. Only accounts with a "
        "password can do it. The provider then revokes what was signed in with the old one, the companions' grants "
        "too. The person is signed in afterwards if the provider lets it; exit code 0 means that the password is "
        "changed.",
        examples="  token-relay phone reset-password --username ann@contoso.example\n"
        "  token-relay phone reset-password --username U --new-password-file pw --otp-command CMD",
    ),
    "sign-out": Command(
        "forget the phone's own tokens",
        "agent_calls:sign_out",
        _sign_out,
        description="Forget the phone's own tokens (and revoke them, where the provider can). The companions' "
        "grants stay; see `phone revoke`.",
    ),
    "import": Command(
        "adopt a refresh token that was obtained elsewhere",
        "agent_calls:import_token",
        _import,
        description="Adopt a refresh token that an SDK obtained with its own opt-in. The agent refreshes it at "
        "once to prove that it works. The file is read, not removed.",
        examples="  token-relay phone import --refresh-token-file - < token",
    ),
    "pair": Command(
        "pair with a companion that shows an invitation",
        "agent_calls:phone_pair",
        _pair,
        description="Pair with a companion. Both devices show a check number of six digits; confirm it only when "
        "they are equal. A device must not be called like another that is paired, nor like the beginning of its id: "
        "then another name is asked for.",
        examples="  token-relay phone pair\n  token-relay phone pair - < invitation\n"
        "  token-relay phone pair --as 'second kitchen'",
    ),
    "rename": Command(
        "call a companion otherwise",
        "agent_calls:rename",
        _rename,
        description="Call a companion NAME on this phone from now on, whatever it calls itself. It must not look like "
        "another device's name, nor be the beginning of its id.",
        examples="  token-relay phone rename kitchen 'kitchen, upstairs'",
    ),
    "handoff": Command(
        "give a companion a grant of its own",
        "agent_calls:handoff",
        _handoff,
        description="Give a companion a grant of its own and wait until it says that the grant is on its disk. A "
        "second handoff to the same device joins the open one. Needs allow_refresh_token_access = true.\n\n"
        "strategies:\n"
        "  branch  the phone refreshes and gives the new token away (Entra; no sign-in)\n"
        "  mint    the person signs in once more, just for the companion\n"
        "  move    the phone gives its only token away and is signed out itself",
        examples="  token-relay phone handoff kitchen\n"
        "  token-relay phone handoff kitchen --account ann@contoso.example\n"
        "  token-relay phone handoff kitchen --lease-days 30 --wait 0\n"
        "  token-relay phone handoff kitchen --strategy mint --browser",
    ),
    "replace": Command(
        "have a new companion take the place of another",
        "agent_calls:replace",
        _replace,
        description="Pair a new companion, give it a grant of the account that DEVICE has, and when that is on its "
        "disk, revoke the grants of DEVICE, unpair it and give its name to the new one. One question, with the check "
        "number, says all that. DEVICE keeps what it has until the new companion has its grant; if it is off then, it "
        "is told when it connects (exit code 6). If anything comes between, run the same command again: it goes on "
        "from there.",
        examples="  token-relay phone replace kitchen\n"
        "  token-relay companion pair --no-qr --no-wait | token-relay phone replace kitchen --yes -",
    ),
    "cancel": Command(
        "give up a handoff that is not finished",
        "agent_calls:cancel",
        device_argument,
        description="Give up a handoff that is not finished. If the companion stored the grant "
        "first, the handoff stands, and `phone revoke` ends it.",
    ),
    "revoke": Command(
        "take the grant away from a companion",
        "agent_calls:revoke",
        _revoke,
        description="Tell the companion to erase its grant, and the provider to revoke it where it can. `status` "
        "shows separately: provider revoked, device confirmed, last access token ends.",
        examples="  token-relay phone revoke kitchen\n  token-relay phone revoke kitchen --lost",
    ),
    "unpair": Command(
        "end a pairing and tell the device",
        "agent_calls:unpair",
        _ask_about,
        description="End a pairing: this phone first revokes the device's grants, then forgets the device. The "
        "device keeps an empty pairing until `companion forget --pairing`.",
    ),
    "forget": Command(
        "forget a companion without asking it",
        "agent_calls:forget",
        _ask_about,
        description="Forget a companion that will never answer again. Its grants live on until its lease ends or the "
        "provider revokes them, so run `phone revoke DEVICE --lost` first.",
    ),
    **UPKEEP,
}
COMMANDS = with_common(lambda parser: agent_options(parser, KIND), _OWN)
