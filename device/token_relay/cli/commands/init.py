"""``init``: makes the home of an agent.

A person must be able to repeat it: everything is checked before anything is written, and a configuration that this
call wrote is removed if the vault could not be made, so that the same command line works once the cause is gone. What
was there before is never removed, and an existing vault is not opened for writing.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

from token_relay.cli import starting
from token_relay.cli.parsing import DONE, Context, UsageError
from token_relay.cli.render import clean, show
from token_relay.host import mounts
from token_relay.host.atomic_files import make_directory, remove_drafts, unlink, write_atomic
from token_relay.host.config import MODELS, CompanionConfig, Kind, PhoneConfig
from token_relay.host.config_file import check_config
from token_relay.host.config_template import Setting, template
from token_relay.host.device_key import CSR_NAME, KEY_NAME, write_csr
from token_relay.host.paths import CONFIG_FILE, agent_home
from token_relay.protocol.errors import ConfigError, LocalError

VAULT_FILE = "vault.db"
CERTIFICATE_FILE = "device.pem"  # what `certs sign` makes of device.csr
CA_FILE = "ca.pem"
NAME_CHARS_MAX = 64

# Options of both agents for how a client proves itself, by setting.
AUTHENTICATION = {
    "token_endpoint_auth_method": "--token-endpoint-auth-method",
    "client_secret_file": "--client-secret-file",
    "client_key_file": "--client-key-file",
}
PROVIDER = {
    "url": "--provider",
    "client_id": "--client-id",
    "companion_client_id": "--companion-client-id",
    "profile": "--profile",
    "profile_file": "--profile-file",
    "tenant": "--tenant",
    "scope": "--scope",
    "prompt": "--prompt",
    "audience": "--audience",
    "resource": "--resource",
    "authorization_parameters": "--authorization-parameter",
    "redirect_ports": "--redirect-port",
    "redirect_path": "--redirect-path",
    "discovery": "--no-discovery",
    "authorization_endpoint": "--authorization-endpoint",
    "token_endpoint": "--token-endpoint",
    "revocation_endpoint": "--revocation-endpoint",
    "userinfo_endpoint": "--userinfo-endpoint",
    "jwks_uri": "--jwks-uri",
    "device_authorization_endpoint": "--device-authorization-endpoint",
    "ca": "--provider-ca",
    **AUTHENTICATION,
}
CLIENT = {"issuer": "--client-issuer", "client_id": "--client-id", **AUTHENTICATION}
# Which option a person must change when a setting is wrong.
OPTIONS = {
    "name": "--name",
    "http_route": "--http-route",
    "broker.url": "--broker",
    "broker.username": "--broker-username",
    "broker.password_file": "--broker-password-file",
    "broker.ca": "--ca",
    "broker.cert": "--cert",
    "broker.key": "--key",
    "broker": "broker options",
    "provider": "provider options",
    "client": "client options",
    **{f"provider.{name}": option for name, option in PROVIDER.items()},
    **{f"client.{name}": option for name, option in CLIENT.items()},
    "provider.hosts": "--provider-host",
    "vault.passphrase_file": "--vault-passphrase-file",
    "vault.credential": "--vault-credential",
    "vault": "vault options",
}


def init(args: argparse.Namespace, context: Context) -> int:
    """Make home, configuration, vault with identity, and the request for the broker's certificate."""
    kind: Kind = "phone" if args.group == "phone" else "companion"
    home = agent_home(kind, context.env, home=args.home).absolute()
    config_path = home / CONFIG_FILE if args.config is None else Path(args.config).absolute()
    if args.new_key and not args.force:
        raise UsageError("--new-key needs --force")
    existing = [path for path in (config_path, home / VAULT_FILE) if path.exists()]
    if existing and not args.force:
        raise LocalError(
            f"{existing[0]} exists: nothing was changed",
            hint="--force writes the configuration anew; the vault stays as it is",
        )
    text = template(kind, _values(args, kind, home=home, base=config_path.parent))
    config = checked(kind, text, config_path.parent)
    from token_relay.host.home import HOME_FILES, create_home

    before = config_path.read_bytes() if config_path.exists() else None
    make_directory(home, mode=0o700)  # an existing one keeps its mode; the vault refuses one that is too open
    for path in remove_drafts(home, *HOME_FILES):
        context.note(f"removed {clean(str(path))}: a command that was killed had left it")
    write_atomic(config_path, text.encode(), mode=0o600)
    try:
        device_id = create_home(kind, home, text, context.env).device_id
    except BaseException:
        if before is None:
            unlink(config_path)
        else:  # what --force would have replaced, as where the agent still runs
            write_atomic(config_path, before, mode=0o600)
        raise
    csr = home / CSR_NAME
    # --force alone keeps the key: a changed setting must not cost the certificate that the CA has signed
    if args.new_key or not csr.exists():
        write_csr(home, device_id, force=args.new_key)
    looked: list[str] = []
    if isinstance(config, PhoneConfig) and not args.no_look:
        starting.wait_for_sandbox(config.provider.url, context.note)
        looked = _look(config)
    _report(context, kind, config, looked, device_id=device_id, home=home, config_path=config_path, csr=csr)
    return DONE


def _values(args: argparse.Namespace, kind: Kind, *, home: Path, base: Path) -> dict[str, Setting]:
    """Return the settings that the options chose, by dotted key."""

    def in_home(name: str) -> str:
        return name if base == home else str(home / name)

    chosen: dict[str, Setting | None] = {
        "name": args.name or _host_name(kind),
        "http_route": args.http_route,
        "broker.url": args.broker,
        "broker.username": args.broker_username,
        "broker.password_file": _absolute(args.broker_password_file),
        "broker.ca": _absolute(args.ca),
        "broker.cert": _absolute(args.cert),
        "broker.key": _absolute(args.key),
        "vault.passphrase_file": _absolute(args.vault_passphrase_file),
        "vault.credential": args.vault_credential,
    }
    if args.cert is not None and args.key is None:
        chosen["broker.key"] = in_home(KEY_NAME)
    if args.broker.startswith("mqtts://") and args.broker_username is None and args.cert is None and args.key is None:
        # Mutual TLS with our own CA: the usual case, and the reason for device.csr. Until the two certificates
        # are in the home, the agent says which is missing.
        chosen["broker.cert"] = in_home(CERTIFICATE_FILE)
        chosen["broker.key"] = in_home(KEY_NAME)
        chosen["broker.ca"] = chosen["broker.ca"] or in_home(CA_FILE)
    if kind == "phone":
        chosen |= provider_values(args)
        chosen["allow_refresh_token_access"] = args.allow_refresh_token_access or None
    else:
        chosen |= {f"client.{name}": _chosen(args, option) for name, option in CLIENT.items()}
        chosen["provider.ca"] = _chosen(args, PROVIDER["ca"])
        chosen["provider.hosts"] = args.provider_host
    return {key: value for key, value in chosen.items() if value is not None}


def provider_values(args: argparse.Namespace) -> dict[str, Setting]:
    """Return the settings of the provider that the options chose, by dotted key."""
    chosen = {f"provider.{name}": _chosen(args, option) for name, option in PROVIDER.items()}
    chosen["provider.authorization_parameters"] = dict(args.authorization_parameter or ()) or None
    chosen["provider.discovery"] = False if args.no_discovery else None
    return {key: value for key, value in chosen.items() if value is not None}


def _chosen(args: argparse.Namespace, option: str) -> Setting | None:
    """Return what an option says, None where it is not there; a file's path does not depend on where we are."""
    value: Setting | None = getattr(args, option.removeprefix("--").replace("-", "_"))
    return _absolute(value) if isinstance(value, str) and option.endswith(("-file", "-ca")) else value


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


def _host_name(kind: Kind) -> str:
    """Return the host's name for the device, or ``kind`` where the host has no usable name."""
    name = platform.node().partition(".")[0][:NAME_CHARS_MAX]
    return name if name and name.isprintable() else kind


def checked(kind: Kind, text: str, base: Path) -> PhoneConfig | CompanionConfig:
    """Check the new configuration as the agent will, and name options instead of lines."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError("an option is not text in this terminal's encoding") from None
    result = check_config(MODELS[kind], text, base)
    if isinstance(result, tuple):
        raise ConfigError("\n".join(f"{OPTIONS.get(p.key, p.key)}: {p.message}" for p in result))
    return result


def _look(config: PhoneConfig) -> list[str]:
    """Ask the provider what cannot work there. That nobody answers is told, and no reason not to make the home."""
    from token_relay.service.checks import provider

    return [f"{one.detail}; {one.hint}" for one in provider.without_agent(config, ()) if one.hint]


def _report(
    context: Context,
    kind: Kind,
    config: PhoneConfig | CompanionConfig,
    looked: list[str],
    *,
    device_id: str,
    home: Path,
    config_path: Path,
    csr: Path,
) -> None:
    warnings = [*config.warnings(), *filter(None, [mounts.warning(home)]), *looked]
    for warning in warnings:
        context.note(f"warning: {warning}")
    if context.as_json:
        show(
            context,
            {
                "device_id": device_id,
                "home": str(home),
                "config": str(config_path),
                "csr": str(csr),
                "warnings": warnings,
            },
        )
        return
    context.note(f"configuration: {clean(str(config_path))}")
    if config.broker.cert is not None and not config.broker.cert.exists():
        context.note(f"sign {clean(str(csr))} with `token-relay certs sign`, and put here:")
        for path in (config.broker.cert, config.broker.ca):
            if path is not None and not path.exists():
                context.note(f"  {clean(str(path))}")
    context.note(f"then: token-relay {kind} run")
    context.out(device_id)
