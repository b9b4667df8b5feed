"""Groups of options that several commands share, except those of the fast ``token`` command. Tables only."""

from __future__ import annotations

from token_relay.cli.parsing import name_and_value, seconds, text, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

EVENTS_LIMIT = 50  # two screens
EVENTS_LIMIT_MAX = 1_000  # the audit table keeps no more
PORT_MAX = 65_535


def profile_option(parser: argparse._ActionsContainer, help: str, *, default: str | None = None) -> None:
    """Add ``--profile``, which names a provider's profile in `phone init` and in `sandbox`."""
    from typing import get_args

    from token_relay.provider.profile import ProfileName

    choices = get_args(ProfileName)
    parser.add_argument("--profile", metavar="PROFILE", choices=choices, default=default, help=help)


def provider_options(parser: argparse.ArgumentParser, *, is_probe: bool = False) -> None:
    """Add the options of ``phone init`` that say how to sign in at a provider, and where its endpoints are.

    ``is_probe``: of ``provider probe``, whose argument is the provider, and which asks it anyway.
    """
    group = parser.add_argument_group("provider")
    if is_probe:
        parser.add_argument("provider", metavar="URL", type=text, help="the identity provider's issuer URL")
    else:
        group.add_argument(
            "--provider", metavar="URL", type=text, required=True, help="the identity provider's issuer URL"
        )
    group.add_argument("--client-id", metavar="ID", type=text, required=True, help="the application's client id there")
    group.add_argument(
        "--companion-client-id", metavar="ID", type=text, help="another public client there, for companions' grants"
    )
    profile_option(
        group, "what the provider does with refresh tokens, a name that sandbox --profile knows too; else guessed"
    )
    group.add_argument(
        "--profile-file", metavar="F", type=text, help="file that describes the provider, made by `provider probe`"
    )
    group.add_argument("--tenant", metavar="T", type=text, help="Entra: the tenant, such as contoso")
    group.add_argument(
        "--scope",
        metavar="S",
        type=text,
        help="what the person is asked to grant; offline_access asks for a refresh token, where the provider knows it",
    )
    group.add_argument(
        "--prompt",
        metavar="P",
        type=text,
        help="what the sign-in page must ask again, such as consent or login, or none; else consent where "
        "offline_access is asked for",
    )
    group.add_argument("--audience", metavar="A", type=text, help="the API that access tokens are for (Auth0)")
    group.add_argument("--resource", metavar="URL", type=text, help="the API that access tokens are for (RFC 8707)")
    group.add_argument(
        "--authorization-parameter",
        metavar="NAME=VALUE",
        action="append",
        type=name_and_value,
        help="one more parameter for the sign-in page; may be given several times",
    )
    group.add_argument(
        "--redirect-port",
        metavar="PORT",
        action="append",
        type=whole(1, PORT_MAX),
        help="port that the browser comes back to, where the provider compares it; several are tried in order; else "
        "a random one",
    )
    group.add_argument("--redirect-path", metavar="PATH", type=text, help="path of the redirect URI; else /callback")
    if not is_probe:
        group.add_argument(
            "--allow-refresh-token-access",
            action="store_true",
            help="let refresh tokens leave the account: `phone handoff` is refused without it",
        )
        group.add_argument(
            "--no-look", action="store_true", help="do not ask the provider now for what cannot work there; doctor does"
        )
    group = parser.add_argument_group("the provider's endpoints, where its metadata does not tell")
    group.add_argument(
        "--no-discovery",
        action="store_true",
        help="read no metadata; needs --authorization-endpoint and --token-endpoint",
    )
    for name, what in (
        ("authorization-endpoint", "where a browser signs in"),
        ("token-endpoint", "where tokens come from"),
        ("revocation-endpoint", "where tokens are revoked"),
        ("userinfo-endpoint", "where the account's name is asked for"),
        ("jwks-uri", "where the keys are that sign id_tokens"),
        ("device-authorization-endpoint", "where a device code is asked for"),
    ):
        group.add_argument(f"--{name}", metavar="URL", type=text, help=what)
    client_options(parser, "how this client proves itself at the provider")


def client_options(parser: argparse.ArgumentParser, title: str) -> argparse._ArgumentGroup:
    """Add the options of a confidential client, and of a provider with a private CA."""
    from typing import get_args

    from token_relay.provider.http import AuthMethod

    group = parser.add_argument_group(title)
    group.add_argument(
        "--token-endpoint-auth-method",
        metavar="M",
        choices=get_args(AuthMethod),
        help=f"{', '.join(get_args(AuthMethod)[:-1])} or {get_args(AuthMethod)[-1]}; else none, a public client",
    )
    group.add_argument("--client-secret-file", metavar="F", type=text, help="file with its secret in the first line")
    group.add_argument("--client-key-file", metavar="F", type=text, help="file with its private key, a JWK or PEM")
    group.add_argument(
        "--provider-ca", metavar="F", type=text, help="certificate of a private CA that signed the provider's"
    )
    return group


def init_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``init`` for both agents: broker, name, source of the vault's key."""
    parser.add_argument(
        "--broker",
        metavar="URL",
        type=text,
        required=True,
        help="the MQTT broker: mqtts://HOST:PORT or mqtt://HOST:PORT",
    )
    parser.add_argument("--name", metavar="N", type=text, help="this device's name on the other; else the host's name")
    group = parser.add_argument_group("how this device proves its identity to the broker")
    group.add_argument("--broker-username", metavar="U", type=text, help="user name, where it uses no certificates")
    group.add_argument(
        "--broker-password-file", metavar="F", type=text, help="file with its password in the first line"
    )
    group.add_argument("--ca", metavar="F", type=text, help="certificate of the CA that signed the broker's")
    group.add_argument(
        "--cert",
        metavar="F",
        type=text,
        help="this device's certificate; with mqtts and no user name, device.pem in the home",
    )
    group.add_argument("--key", metavar="F", type=text, help="private key of --cert; else device.key in the home")
    group = parser.add_argument_group("where the vault's key comes from (default: vault.key in the home)")
    group.add_argument("--vault-passphrase-file", metavar="F", type=text, help="file with a passphrase")
    group.add_argument("--vault-credential", metavar="NAME", type=text, help="a systemd credential of the service")
    parser.add_argument(
        "--http-route",
        metavar="HOST:PORT",
        type=text,
        help="for tests: connect to the provider through this address of this machine, such as a link of the sandbox",
    )
    parser.add_argument(
        "--new-key",
        action="store_true",
        help="with --force: also replace device.key and device.csr; the broker's CA has to sign the new request",
    )
    parser.add_argument(
        "--force", action="store_true", help="write config.toml anew on an existing home; the vault stays as it is"
    )


def sign_in_options(parser: argparse.ArgumentParser, *, is_required: bool, title: str = "") -> None:
    """Add the options of a sign-in: user name and sources of the secrets, or the browser."""
    group = parser.add_argument_group(
        title or ("signing in" if is_required else "signing in once more (strategy mint)")
    )
    method = group.add_mutually_exclusive_group(required=is_required)
    method.add_argument(
        "--username", metavar="U", type=text, help="sign in as U without a browser, where the provider can"
    )
    method.add_argument("--browser", action="store_true", help="sign in with a browser on this machine")
    group.add_argument("--no-open", action="store_true", help="with --browser: print the address, open nothing")
    group.add_argument(
        "--password-file",
        metavar="F|-",
        type=text,
        help="file with the password in its first line, - for standard input; else asked for",
    )
    code_options(group)
    second_factor_options(group)


def new_account_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sign-up``."""
    parser.add_argument("--username", metavar="U", type=text, required=True, help="e-mail address of the new account")
    password = parser.add_mutually_exclusive_group()
    password.add_argument(
        "--password-file",
        metavar="F|-",
        type=text,
        help="file with the new password in its first line, - for standard input; else asked for, twice",
    )
    password.add_argument(
        "--no-password",
        action="store_true",
        help="an account that signs in with e-mail codes, where the tenant has them",
    )
    parser.add_argument(
        "--attributes-file",
        metavar="F|-",
        type=text,
        help="file with what the tenant wants to know, as a JSON object of names and texts; what is missing is asked "
        "for",
    )
    code_options(parser)
    second_factor_options(parser)


def reset_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``reset-password``."""
    parser.add_argument("--username", metavar="U", type=text, required=True, help="the account")
    parser.add_argument(
        "--new-password-file",
        metavar="F|-",
        type=text,
        help="file with the new password in its first line, - for standard input; else asked for, twice",
    )
    code_options(parser)
    second_factor_options(parser)


def second_factor_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that choose a second factor, and the one to register where the account has none."""
    parser.add_argument(
        "--mfa-method",
        metavar="M",
        type=text,
        help="second factor to use where the account has several: email, sms, or the masked address; else asked for",
    )
    parser.add_argument(
        "--register",
        metavar="CONTACT",
        type=text,
        help="e-mail address, or phone number with +, to register as second factor where the account must have one; "
        "else asked for",
    )


def code_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that say where one-time codes come from."""
    code = parser.add_mutually_exclusive_group()
    code.add_argument(
        "--otp-file",
        metavar="F|-",
        type=text,
        help="file into which the one-time code will be written, - for standard input: read only after the provider "
        "has sent the code; the command waits for it and ignores what is in the file before",
    )
    code.add_argument(
        "--otp-command",
        metavar="CMD",
        type=text,
        help="command that prints the one-time code, run without a shell after the provider has sent it",
    )


def device_argument(parser: argparse.ArgumentParser) -> None:
    """Add DEVICE."""
    parser.add_argument(
        "device",
        metavar="DEVICE",
        type=text,
        help="the companion: its id, its name, or the beginning of its id",
    )


def wait_option(parser: argparse.ArgumentParser, default_s: float, what: str) -> None:
    """Add ``--wait``."""
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=seconds,
        default=default_s,
        help=f"how long to wait for {what} (default {default_s:.0f}); "
        "afterwards it goes on in the background, exit code 6",
    )


def yes_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--yes``."""
    parser.add_argument("--yes", action="store_true", help="do not ask before something is taken away")


def events_options(parser: argparse.ArgumentParser, device: str = "DEVICE") -> None:
    """Add the options that say which events; ``device`` stands for the other device."""
    parser.add_argument(
        "--limit",
        metavar="N",
        type=whole(1, EVENTS_LIMIT_MAX),
        default=EVENTS_LIMIT,
        help=f"how many at most, 1 to {EVENTS_LIMIT_MAX} (default {EVENTS_LIMIT})",
    )
    parser.add_argument(
        "--after", metavar="ID", type=whole(0, 2**53 - 1), default=0, help="only events after the one with this id"
    )
    parser.add_argument(
        "--device",
        metavar=device,
        type=text,
        help="only events about this device: its id, its name, or its id's beginning",
    )
    parser.add_argument(
        "--trace",
        metavar="ID",
        type=text,
        help="only events with this trace id or correlation id of the provider, or its first characters, at least 8",
    )
