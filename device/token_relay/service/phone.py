"""The phone as a running program: its agent on the runtime, its commands on the control socket."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from token_relay.agents.pairings import names_of, pairing_of
from token_relay.agents.phone.agent import HandoffWish, PhoneAgent
from token_relay.agents.phone.pairing import NoAnswerError
from token_relay.agents.phone.person import NotSignedIn, SignInOptions
from token_relay.agents.phone.sign_in import ProviderSignIn
from token_relay.agents.ports import Transaction
from token_relay.agents.records import Grant, Pairing, PhoneHandoff
from token_relay.host.client_credentials import AuthenticatedHttp, read_credentials
from token_relay.host.config import Home, PhoneConfig
from token_relay.host.loopback_receiver import LoopbackReceiver
from token_relay.protocol import pairing as wire
from token_relay.protocol.errors import ConfigError, PeerError, PersonNeededError, TransientError
from token_relay.protocol.handoff import Strategy
from token_relay.protocol.secret import RefreshToken
from token_relay.service import metrics
from token_relay.service.actions import action
from token_relay.service.checks.finding import Finding
from token_relay.service.commands import AgentCommands, confirm
from token_relay.service.control import JSON, Exchange
from token_relay.service.copied_vault import until_at_home
from token_relay.service.device_list import DeviceList
from token_relay.service.devices import Json, handoff_row
from token_relay.service.provider_settings import account_settings
from token_relay.service.questions import (
    forget_question,
    live_of,
    lost_steps,
    revoke_question,
    unpair_question,
)
from token_relay.service.replace import run_replace
from token_relay.service.runtime import Runtime, number_of, open_runtime, text_of
from token_relay.service.status import grant_row, phone_status

COMMANDS_THAT_GO_ON: tuple[str, ...] = ("cancel", "revoke", "unpair", "forget", "sign_out")
WAIT_S_MAX = 86_400.0
INVITATION_LINES_MAX = 8
ATTRIBUTES_MAX = 50
OPTIONS_MAX = 16  # a sign-in has eight
OPTION_CHARS_MAX = 64
_SIGN_IN: JSON = action("sign_in")


async def run_phone(home: Home, config: PhoneConfig) -> None:
    """Run the phone's agent until it is cancelled."""
    settings = account_settings(config)
    async with (
        open_runtime("phone", home, config, provider_ca=config.provider.ca) as runtime,
        asyncio.TaskGroup() as tasks,
    ):
        await until_at_home(runtime, tasks)
        clock, random = runtime.clock, runtime.random
        authenticated = AuthenticatedHttp(runtime.http, partial(read_credentials, config), clock=clock, random=random)
        http = metrics.MeasuredHttp(authenticated)
        receiver = partial(LoopbackReceiver, ports=config.provider.redirect_ports, path=config.provider.redirect_path)
        agent = PhoneAgent(
            runtime.ports(http, tasks),
            runtime.identity,
            sign_in=ProviderSignIn(http=http, clock=clock, random=random, settings=settings, new_receiver=receiver),
            name=config.name,
            settings=settings,
            strategy=config.handoff.strategy,
            lease_days=config.handoff.lease_days,
        )
        commands = PhoneCommands(runtime, agent, http)
        await runtime.serve(
            agent,
            tasks,
            handlers={
                **commands.shared,
                "status": commands.status,
                "devices": commands.devices,
                "sign_in": commands.sign_in,
                "sign_up": commands.sign_up,
                "reset_password": commands.reset_password,
                "sign_out": commands.sign_out,
                "import": commands.adopt,
                "pair": commands.pair,
                "rename": commands.rename,
                "handoff": commands.hand_off,
                "replace": commands.replace,
                "cancel": commands.cancel,
                "revoke": commands.revoke,
                "unpair": commands.unpair,
                "forget": commands.forget,
            },
            goes_on=COMMANDS_THAT_GO_ON,
            reload=authenticated.reload,
        )


class PhoneCommands(AgentCommands[PhoneAgent]):
    """The phone's control commands."""

    def __init__(self, runtime: Runtime, agent: PhoneAgent, http: metrics.MeasuredHttp) -> None:
        super().__init__(runtime, agent, http)
        self._devices = DeviceList(agent)

    async def status(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Return the phone's status."""
        said = self._agent.settings
        known = {"allow_refresh_token_access": said.allow_refresh_token_access, "described": said.profile}

        def show(*here: Any, pairings: list[Pairing], **rows: Any) -> dict[str, JSON]:
            return phone_status(*here, pairings=pairings, presence=self._agent.roll_call.of(pairings), **rows)

        return await self._stand(show, {"handoffs": PhoneHandoff}, **known)

    async def _look_at_provider(self) -> list[Finding]:
        from token_relay.service.checks.provider import metadata  # only for ``doctor``

        return await metadata(self._http, self._agent.settings)

    def _row(self, row: PhoneHandoff) -> dict[str, JSON]:
        return handoff_row(row, described=self._agent.settings.profile)

    async def devices(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Return a page of the devices, or one of them whole."""
        return await self._devices.answer(args)

    async def device_rows(self) -> list[Json]:
        """Return the rows of all devices."""
        return await self._devices.rows()

    async def sign_in(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Sign in, asking for what the provider wants."""
        grant = await self._agent.accounts.sign_in(exchange, _sign_in_options(args))
        row = grant_row(grant, [], "", self._runtime.clock.now())
        return {"account": grant.account, "grant": row, "message": f"signed in as {grant.account or grant.subject}"}

    async def sign_up(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Make an account, and sign in with it."""
        return self._ended(await self._agent.accounts.sign_up(exchange, _sign_in_options(args)))

    async def reset_password(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Choose a new password, and sign in with it."""
        return self._ended(await self._agent.accounts.reset_password(exchange, _sign_in_options(args)))

    def _ended(self, outcome: Grant | NotSignedIn) -> dict[str, JSON]:
        if isinstance(outcome, NotSignedIn):
            done = {"account_created": "the account was made", "password_changed": "the password was changed"}
            said = f"{done.get(outcome.done, 'done')}, but nobody is signed in: {outcome.reason}"
            return {"signed_in": False, "account": "", "grant": None, "message": said, "action": _SIGN_IN}
        row = grant_row(outcome, [], "", self._runtime.clock.now())
        said = f"signed in as {outcome.account or outcome.subject}"
        return {"signed_in": True, "account": outcome.account, "grant": row, "message": said}

    async def sign_out(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Forget the phone's own tokens: of the account that is named, or chosen where there are several."""
        ended = await self._agent.accounts.sign_out(text_of(args, "account"), exchange)
        names = ", ".join(row["account"] or row["issuer"] for row in ended) or "nothing: nobody was signed in"
        return {"accounts": [dict(row) for row in ended], "message": f"signed out of {names}"}

    async def adopt(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Adopt a refresh token from elsewhere."""
        value = await exchange.ask("refresh_token", "the refresh token")
        if value is None or not value.strip():
            raise PersonNeededError("no refresh token was given", hint="add --refresh-token-file FILE")
        grant = await self._agent.accounts.adopt(RefreshToken(value.strip()), account=text_of(args, "account"))
        row = grant_row(grant, [], "", self._runtime.clock.now())
        return {"grant": row, "message": "adopted, and refreshed once"}

    async def pair(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Pair with the companion that shows the invitation."""
        invitation = await _invitation(args, exchange)
        await self._await_broker()
        is_sure = args.get("yes") is True

        async def confirm(number: str, name: str) -> bool:
            await exchange.progress({"check_number": number, "device_name": name})
            if is_sure:
                return True
            question = f"does {name} show {number[:3]} {number[3:]} too?"
            return await exchange.ask("confirm", question, check_number=number, device_name=name) == "yes"

        async def rename(problem: str) -> str | None:
            return await exchange.ask("device_name", f"{problem}; call it")

        async def waiting() -> None:
            await exchange.progress({"state": "waiting", "message": "waiting for the companion…"})

        known = dict(await self._agent.turns.read(names_of))
        try:
            pairing = await self._agent.pairing.pair(
                invitation, confirm, name=text_of(args, "as"), rename=rename, waiting=waiting
            )
        except NoAnswerError as exc:
            self._require_broker()
            own = self._runtime.config.broker.url
            if exc.broker and not _is_one_broker(exc.broker, own):
                said = f"the companion did not answer: its broker is {exc.broker}, this phone's is {own}"
                hint = "if these are two: write the companion's as url under [broker] in config.toml, and start anew"
                raise TransientError(said, hint=hint) from exc
            raise
        name = pairing.peer_name
        again = f"paired with {name} again; this pairing takes the place of the older one"
        message = again if pairing.peer_id in known else f"paired with {name}"
        return {"device_id": pairing.peer_id, "device_name": name, "message": message}

    async def rename(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Call a device otherwise."""
        name = text_of(args, "name")
        before = await self._agent.rename(text_of(args, "device"), name)
        message = f"{before.peer_name} is called {name} from now on"
        return {"device_id": before.peer_id, "device_name": name, "name_before": before.peer_name, "message": message}

    async def hand_off(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Give a companion a grant."""
        device = text_of(args, "device")
        row = await self._agent.hand_off(device, _wish(args), exchange)
        if row.state == "done":
            return {**self._row(row), "message": "the companion has the grant on its disk"}
        waits, to_do = "waiting for the companion", action("bring_device_online", device)
        if not self._runtime.channel.is_connected:
            waits, to_do = "waiting for the broker", action("check_broker", self._runtime.kind)
        return {**self._row(row), "pending": True, "message": row.problem or waits, "action": to_do}

    async def replace(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Have a new companion take the place of another."""
        return await run_replace(self._agent, self.pair, _wish(args), args, exchange)

    async def cancel(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Give up an open handoff."""
        row = await self._agent.cancel(text_of(args, "device"))
        message = {
            "cancelled": "cancelled: the companion never stored it",
            "done": "too late: the companion has it; to take it away: phone revoke",
            "gone": "over: the companion has lost it",
        }.get(row.state, "asked the companion to give it up; its answer decides")
        return {**self._row(row), "pending": row.state == "cancelling", "message": message}

    async def revoke(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Take a device's grants away."""
        wait_s = number_of(args, "wait_s", 10.0, low=0, high=WAIT_S_MAX)
        pairing, live = await self._standing(args)
        if live:
            await confirm(args, exchange, revoke_question(pairing, live))
        rows = await self._agent.revoke_of(pairing, wait_s=wait_s)
        pending = any(row.state != "gone" for row in rows)
        result: dict[str, JSON] = {
            "device_id": pairing.peer_id,
            "handoffs": [self._row(row) for row in rows],
            "pending": pending,
            "message": _revocation_message(len(rows), pending=pending),
        }
        if args.get("lost") is True:
            result["steps"] = [*lost_steps(pairing.peer_id, rows, pending=pending)]
        return result

    async def _standing(self, args: dict[str, JSON]) -> tuple[Pairing, list[PhoneHandoff]]:
        """Return the device that a command means, with the handoffs by which it has something."""
        word = text_of(args, "device")

        def read(tx: Transaction) -> tuple[Pairing, list[PhoneHandoff]]:
            pairing = pairing_of(tx, word)
            mine = tx.select(Pairing, peer_id=pairing.peer_id)
            return pairing, live_of(row for one in mine for row in tx.select(PhoneHandoff, pairing_id=one.pairing_id))

        return await self._agent.turns.read(read)

    async def unpair(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """End a pairing, and tell the device."""
        pairing, live = await self._standing(args)
        await confirm(args, exchange, unpair_question(pairing, live))
        rows = await self._agent.unpair(pairing.peer_id)
        pending = any(row.state != "gone" for row in rows)
        message = "unpaired" if not pending else "unpaired here; the device is told when it connects"
        return {"handoffs": [self._row(row) for row in rows], "pending": pending, "message": message}

    async def forget(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        """Give a device up."""
        pairing, live = await self._standing(args)
        await confirm(args, exchange, forget_question(pairing, live))
        count = await self._agent.forget(pairing.peer_id)
        return {"handoffs_ended": count, "message": "forgotten; what the device holds lives until its lease ends"}


async def _invitation(args: dict[str, JSON], exchange: Exchange) -> str:
    """Return the invitation, asked for where it is not given; line by line where it was pasted with breaks."""
    if text := text_of(args, "invitation").strip():
        return text
    asked = "the companion's invitation (RTR1:…)"
    for _ in range(INVITATION_LINES_MAX):
        if not (line := (await exchange.ask("invitation", asked) or "").strip()):
            break
        text += f"{line}\n"
        try:
            wire.Invitation.from_text(text)
        except PeerError as exc:
            asked = f"{exc}; the rest of it, or nothing"
        else:
            break
    if not text:
        raise PersonNeededError("no invitation was given", hint="token-relay companion pair shows one")
    return text


def _is_one_broker(one: str, other: str) -> bool:
    """Whether two addresses say the same; two names may yet mean one machine."""
    try:
        mine, theirs = urlsplit(one), urlsplit(other)
        return (mine.scheme, mine.hostname, mine.port) == (theirs.scheme, theirs.hostname, theirs.port)
    except ValueError:
        return False


def _revocation_message(count: int, *, pending: bool) -> str:
    if not count:
        return "the device holds nothing of this phone"
    if pending:
        return "revocation is queued; the device has not confirmed yet"
    return "the device has erased its grants"


def _names(value: JSON) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > OPTIONS_MAX:
        raise ConfigError(f"sign_in_options must be a list of at most {OPTIONS_MAX} names")
    return tuple(str(name)[:OPTION_CHARS_MAX] for name in value)


def _strategy(text: str) -> Strategy | None:
    match text:
        case "":
            return None
        case "branch" | "mint" | "move":
            return text
        case _:
            raise ConfigError("strategy must be branch, mint or move")


def _wish(args: dict[str, JSON]) -> HandoffWish:
    sign_in = args.get("sign_in")
    lease = args.get("lease_days")
    return HandoffWish(
        strategy=_strategy(text_of(args, "strategy")),
        scope=text_of(args, "scope"),
        lease_days=None if lease is None else int(number_of(args, "lease_days", 0, low=0, high=365)),
        wait_s=number_of(args, "wait_s", 60.0, low=0, high=WAIT_S_MAX),
        sign_in=_sign_in_options(sign_in) if isinstance(sign_in, dict) else None,
        account=text_of(args, "account"),
        sign_in_options=_names(args.get("sign_in_options")),
    )


def _sign_in_options(args: dict[str, JSON]) -> SignInOptions:
    method = text_of(args, "method")
    if method not in ("", "native", "browser"):
        raise ConfigError("method must be native or browser")
    return SignInOptions(
        method=method,
        username=text_of(args, "username"),
        open_browser=args.get("open") is not False,
        mfa_method=text_of(args, "mfa_method"),
        contact=text_of(args, "contact"),
        attributes=_attributes(args.get("attributes")),
        with_password=args.get("with_password") is not False,
    )


def _attributes(value: JSON) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > ATTRIBUTES_MAX:
        raise ConfigError(f"attributes must be an object of at most {ATTRIBUTES_MAX} names with text")
    found: dict[str, str] = {}
    for name, text in value.items():
        if not isinstance(text, str):
            raise ConfigError("the value of an attribute must be text")
        found[name] = text
    return found
