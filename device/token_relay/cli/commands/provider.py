"""The commands about an identity provider's behaviour: ``token-relay provider …``. Table and handlers.

``probe`` needs no agent and no home: it signs in by itself, to throw the grants away. See
:mod:`token_relay.agents.probe`.
"""

from __future__ import annotations

from token_relay.cli.commands.options import provider_options, sign_in_options
from token_relay.cli.parsing import DONE, Command, Context, UsageError, agent_options, json_option, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from token_relay.agents.probe.experiments import Measured
    from token_relay.cli.prompts import Sources
    from token_relay.host.config import PhoneConfig


def _probe(parser: argparse.ArgumentParser) -> None:
    provider_options(parser, is_probe=True)
    sign_in_options(parser, is_required=False, title="signing in")
    parser.add_argument("--write", metavar="FILE", type=text, help="write what was measured into this new file")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="where a used token works after 30 s, do not wait five minutes to see whether it works for good; it then "
        "counts as one that ends",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before each sign-in")
    json_option(parser)


def _show(parser: argparse.ArgumentParser) -> None:
    agent_options(parser, "phone")


COMMANDS = {
    "show": Command(
        "show what holds for the phone's provider",
        "provider:show",
        _show,
        description="Show what the phone takes its provider to do with refresh tokens, and where each value comes "
        "from: config (provider.behaviour), file (provider.profile_file), a known profile, or the default, which is "
        "the most careful one. Also what the provider has refuted since, as far as the agent runs.",
    ),
    "probe": Command(
        "measure what a provider does with refresh tokens",
        "provider:probe",
        _probe,
        description="Measure what a provider does with refresh tokens, by three to six sign-ins that are thrown away: "
        "whether a refresh gives a new token, how long a used one still works, what its reuse and a revocation take "
        "along, and what the provider tells of lifetimes. Each sign-in is asked for; sign in as the same account each "
        "time, best as one made for tests. With a browser it is done in two windows, the usual one and a private one.\n"
        "\n"
        "No grant in use is touched by this program, but a provider may end all grants of the account. At the end, "
        "and after Ctrl-C, what can be revoked is revoked, and what lives on is listed. It takes a minute, or seven "
        "where used tokens stay good.",
        examples="  token-relay provider probe https://id.example --client-id ID --write id.example.toml\n"
        '  then, in config.toml under [provider]: profile_file = "id.example.toml"',
    ),
}


def show(args: argparse.Namespace, context: Context) -> int:
    """``provider show``."""
    from token_relay.cli.render import clean, value_text
    from token_relay.cli.render import show as show_object
    from token_relay.host.config import PhoneConfig
    from token_relay.host.config_file import load_config
    from token_relay.host.paths import config_file
    from token_relay.protocol.errors import ConfigError

    path = config_file("phone", context.env, home=args.home, config=args.config)
    if path is None:
        raise ConfigError("no configuration of a phone was found", hint="token-relay phone init --help")
    said = load_config(PhoneConfig, path).provider
    profile, sources = said.resolved_profile, said.behaviour_sources()
    behaviour = dict(profile.behaviour)
    refuted = _refuted(args, context)
    if context.as_json:
        shown = {
            "provider": said.url,
            "profile": profile.name,
            "strategies": list(profile.strategies),
            "behaviour": behaviour,
            "sources": sources,
            "refuted": refuted,
        }
        show_object(context, shown)
        return DONE
    context.out(f"{clean(said.url)}: profile {profile.name}, strategies {', '.join(profile.strategies)}")
    width = max(len(name) for name in behaviour)
    for name, value in behaviour.items():
        told = str(value).lower() if isinstance(value, bool) else value_text(name, value)
        context.out(f"  {name:<{width}}  {told:<10}  {sources[name]}")
    if refuted is None:
        context.note("the agent does not run: what the provider has refuted since is not known")
    for row in refuted or ():
        context.out(f"refuted: {clean(str(row.get('issuer')))}: {clean(str(row.get('why')))}")
    return DONE


def _refuted(args: argparse.Namespace, context: Context) -> list[dict[str, object]] | None:
    """Return what the running agent says was refuted, None when none runs."""
    from token_relay.cli.client import ClientError, control_call, locate

    try:
        socket = locate("phone", context.env, home=args.home, socket_directory=args.socket)
        found = control_call(socket, "status", None, silence_s=30).get("refuted")
    except ClientError as exc:
        if exc.code == "not_running":
            return None
        raise
    return [dict(row) for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def probe(args: argparse.Namespace, context: Context) -> int:
    """``provider probe``."""
    import asyncio
    from dataclasses import replace
    from pathlib import Path

    from token_relay.cli.commands.agent_calls import sign_in_sources
    from token_relay.host.atomic_files import write_atomic
    from token_relay.host.clock import SystemClock
    from token_relay.host.profile_text import profile_text

    args.browser = args.username is None
    sources = replace(sign_in_sources(args), is_confirmed=args.yes)
    config = _config(args)
    file = None if args.write is None else Path(args.write)
    if file is not None and (file.exists() or not file.absolute().parent.is_dir()):
        why = "exists: nothing was measured" if file.exists() else "is in a directory that does not exist"
        raise UsageError(f"{file} {why}", hint="give a new name after --write")
    measured, left = asyncio.run(_measure(config, args, context, sources))
    told = profile_text(measured, issuer=config.provider.url, at_s=SystemClock().now().wall_s)
    if file is not None:
        write_atomic(file, told.encode(), mode=0o644)
    _report(context, measured, left, file, told)
    return DONE


def _config(args: argparse.Namespace) -> PhoneConfig:
    """Return the configuration of a phone that does not exist, with the settings of this command line."""
    from pathlib import Path

    from token_relay.cli.commands.init import checked, provider_values
    from token_relay.host.config import PhoneConfig
    from token_relay.host.config_template import template

    values = {"name": "probe", "broker.url": "mqtt://127.0.0.1", **provider_values(args)}
    config = checked("phone", template("phone", values), Path.cwd())
    assert isinstance(config, PhoneConfig), "that is what was asked for"
    return config


async def _measure(
    config: PhoneConfig, args: argparse.Namespace, context: Context, sources: Sources
) -> tuple[Measured, list[str]]:
    from functools import partial

    from token_relay.agents.phone.person import SignInOptions
    from token_relay.agents.phone.sign_in import ProviderSignIn
    from token_relay.agents.probe.driver import Probe
    from token_relay.cli.terminal_person import TerminalPerson
    from token_relay.host.client_credentials import AuthenticatedHttp, read_credentials
    from token_relay.host.clock import SystemClock, SystemRandom
    from token_relay.host.http import AioHttp
    from token_relay.host.loopback_receiver import LoopbackReceiver
    from token_relay.service.provider_settings import account_settings

    clock, random, settings = SystemClock(), SystemRandom(), account_settings(config)
    plain = AioHttp(ca_file=config.provider.ca)
    http = AuthenticatedHttp(plain, partial(read_credentials, config), clock=clock, random=random)
    receiver = partial(LoopbackReceiver, ports=config.provider.redirect_ports, path=config.provider.redirect_path)
    options = SignInOptions(
        method="browser" if args.browser else "native",
        username=args.username or "",
        open_browser=not args.no_open,
        mfa_method=args.mfa_method or "",
        contact=args.register or "",
    )
    sign_in = ProviderSignIn(http=http, clock=clock, random=random, settings=settings, new_receiver=receiver)
    measurement = Probe(http=http, clock=clock, sign_in=sign_in, settings=settings, options=options)
    try:
        measured = await measurement.run(TerminalPerson(context, sources), long_try=not args.quick)
    finally:
        await plain.close()
    return measured, measurement.left


def _report(context: Context, measured: Measured, left: list[str], file: Path | None, told: str) -> None:
    if context.as_json:
        from token_relay.cli.render import show as show_object

        shown: dict[str, object] = {
            "behaviour": dict(measured.values),
            "leeway_between_s": list(measured.leeway_between_s),
            "narrower_scope": measured.narrower_scope,
            "saw": list(measured.saw),
            "left": left,
            "file": None if file is None else str(file),
        }
        show_object(context, shown)
        return
    context.out(told.rstrip())
    if file is not None:
        context.note(f'written to {file}; in config.toml, under [provider]: profile_file = "{file.absolute()}"')
