"""Our two ends behind the adapter: a simulated device with the agents' real code, in virtual time.

The device is one of the simulated world, so messages come in through a session of its broker, and what it does is seen
from outside: the vault's commits are ``save``, PUBACKs are ``ack``, what it publishes is ``send``. The provider is the
runner's: the phone's request for a companion's token stands still until the runner says what came of it.

``python -m tests.conversations.our_ends`` is the same as a program.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

import structlog
from structlog.testing import capture_logs

from tests.conversations.our_devices import (
    NO_ANSWER,
    OWN_TOKEN,
    SUBJECT,
    Answer,
    Asking,
    OurCompanion,
    OurPhone,
    ScriptedHttp,
    Somebody,
    Watcher,
    answered,
    form_of,
    tokens,
)
from tests.conversations.scenarios.kit import CLIENT_ID, ISSUER, SCOPE, TOKEN_ENDPOINT
from token_relay.agents.companion.handoff_rows import state_of as companion_state
from token_relay.agents.grants import lease
from token_relay.agents.grants.serving import lease_of
from token_relay.agents.phone.account import _granted
from token_relay.agents.phone.account_settings import AccountSettings
from token_relay.agents.phone.agent import HandoffWish
from token_relay.agents.phone.handoff_rows import state_of as phone_state
from token_relay.agents.ports import Record, Transaction
from token_relay.agents.records import CompanionHandoff, Grant, Identity, Outgoing, Pairing, PhoneHandoff
from token_relay.agents.token_source import TokenGranted
from token_relay.agents.turn import Turn
from token_relay.protocol import handoff
from token_relay.protocol.errors import PeerError, RelayError
from token_relay.protocol.identity import KeyPair, device_id
from token_relay.protocol.messages import SPEAKS, Pair3
from token_relay.protocol.secret import PrivateKey, RefreshToken
from token_relay.provider.http import AnswerLost, HttpRequest
from token_relay.provider.profile import PROFILES
from token_relay.simulation.ports.channel import Packet
from token_relay.simulation.ports.clocks import SimulatedClock
from token_relay.simulation.ports.power import PowerCutError
from token_relay.simulation.world.world import World

Json = dict[str, Any]

DAY_S = 86_400
USUAL = tokens("")  # what a companion gets for a refresh that no conversation is about: no new refresh token


def _told(detail: str) -> tuple[str, Json]:
    """Return the reason of a line of the log, and the field if it names one of the message itself."""
    reason, _, names = detail.partition(": ")
    names = names.partition(" of ")[0].partition(".")[0]
    return reason, {"field": names} if names and (" " not in names or ", " in names) else {}


# -- An end ------------------------------------------------------------------------------------------------


class OurEnd:
    """Answers the requests of docs/spec/adapter.md with one of our devices; each ``start`` begins anew."""

    def __init__(self) -> None:
        self._world: World | None = None

    def ask(self, request: Json) -> Json:
        """Answer one request."""
        if request["do"] == "start":
            if request["level"] != "envelope":
                return {"error": "these ends speak in envelopes only: --level envelope"}
            return self._start(request)
        assert self._world is not None, "it begins with `start`"
        step = getattr(self, f"_do_{request['do']}", None)
        if step is None:
            return {"unknown": True}
        self._watcher.did.clear()
        rejected = dict(self._rejects())
        with capture_logs() as logs:
            answer = self._world.loop.run_until_complete(self._step(step, request))
        fields = dict(_told(line["detail"]) for line in logs if line["event"] in ("message_refused", "grant_refused"))
        refused = [reason for reason, count in self._rejects().items() if count > rejected.get(reason, 0)]
        told = [{"refuse": reason, **fields.get(reason, {})} for reason in refused if request["do"] == "receive"]
        return {"did": [*told, *self._watcher.did], **answer}

    async def _step(self, step: Callable[[Json], Any], request: Json) -> Json:
        answer = step(request)
        if isinstance(answer, Coroutine):
            answer = await answer
        await self._device.loop.settle()
        return answer if isinstance(answer, dict) else {}

    def close(self) -> None:
        """Give the device up."""
        if self._world is not None:
            self._world.close()
            self._world = None

    def _rejects(self) -> dict[str, int]:
        return dict(self._device.agent.turns.rejects) if self._device.is_on else {}

    # -- beginning

    def _start(self, request: Json) -> Json:
        self.close()
        self._watcher = Watcher()
        is_phone = request["end"] == "phone"
        world = self._world = World("entra", tier="memory", observers=[self._watcher], phones=0, companions=0)
        asyncio.set_event_loop(None)
        self._http = ScriptedHttp()
        self._device: OurPhone | OurCompanion
        if is_phone:
            phone = self._device = world._new(OurPhone, "phone")
            phone.asking = self._asking = Asking(self._watcher.did)
            self._http.decide = self._at_the_phone
            phone.client = AccountSettings(ISSUER, CLIENT_ID, None, SCOPE, PROFILES["entra"], True)
        else:
            self._device = world._new(OurCompanion, "watch")
            self._refreshing: Answer = USUAL
            self._revoking: dict[str, asyncio.Future[Answer]] = {}
            self._http.decide = self._at_the_companion
        device = self._device
        device.called = request["name"]
        private = bytes.fromhex(request["private_key"])
        pair = KeyPair(bytes.fromhex(request["public_key"]), PrivateKey(private))
        device.identity = Identity("self", pair.public_key, pair.private_key, 0)
        device.http = self._http  # type: ignore[assignment]  # the port, without a provider behind it
        device.clock = SimulatedClock(world.loop, device.name, wall_s=float(request["now"]))
        device.power = device._new_power()
        device.power.is_on = False
        self._images: dict[str, Any] = {}
        world.loop.run_until_complete(device.start(connect=False))
        return {"did": [], "speaks": SPEAKS}

    def _do_connect(self, request: Json) -> Any:
        self._device.channel.drop()
        return self._open()

    async def _open(self) -> None:
        device = self._device
        await device.loop.create_task(device.channel.open(), context=device.context.copy())

    async def _do_restart(self, request: Json) -> None:
        await self._device.crash()
        await self._device.start(connect=False)

    def _do_keep(self, request: Json) -> None:
        self._images[request["image"]] = self._device.image()

    async def _do_restore(self, request: Json) -> None:
        await self._device.restore(self._images[request["image"]])
        await self._device.start(connect=False)

    async def _do_wait(self, request: Json) -> None:
        await asyncio.sleep(request["seconds"])

    def _do_receive(self, request: Json) -> None:
        """Put a message into the device's session at the broker."""
        device = self._device
        packet = Packet(request["topic"], base64.b64decode(request["payload"]), "peer")
        session = device.broker.sessions[device.id]
        device.broker._deliveries += 1
        session.waiting[device.broker._deliveries] = packet
        if session.channel is not None and session.channel.is_greeted:
            session.channel.send(device.broker._deliveries, packet)

    async def _do_pair(self, request: Json) -> None:
        """Store the pending pairing as both ends do after PAIR2; the phone asks for it with PAIR3."""
        peer_key, transcript = bytes.fromhex(request["peer_key"]), bytes.fromhex(request["transcript"])

        def step(turn: Turn) -> None:
            pairing = Pairing(
                request["pairing_id"], device_id(peer_key), peer_key, request["peer_name"], "pending", transcript,
                turn.stamp,
            )  # fmt: skip
            turn.tx.put(pairing)
            if isinstance(self._device, OurPhone):
                turn.request(pairing.pairing_id, Pair3(transcript_hash=transcript.hex()))

        await self._device.call(self._device.agent.turns.run(step))

    def _behind(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a person's command, which may wait for the peer, beside everything else."""

        async def run() -> None:
            try:
                await self._device.call(work)
            except (RelayError, PowerCutError) as exc:  # what a person would read; state shows what became of it
                if isinstance(exc, PeerError):
                    self._watcher.did.append({"refuse": exc.reason})

        self._device.loop.create_task(run())

    # -- what happens at a phone

    async def _do_offer(self, request: Json) -> None:
        phone, strategy = self._phone, request["strategy"]
        phone.set(url=request["issuer"], client_id=request["client_id"], scope=request["scope"])
        if strategy != "mint":
            self._sign_in(request)
        account = "" if strategy == "mint" else request["account"]
        wish = HandoffWish(strategy, request["scope"], request["lease_days"], wait_s=30.0 * DAY_S, account=account)
        self._behind(phone.agent.hand_off(self._peer_id(), wish, Somebody()))

    def _sign_in(self, request: Json) -> None:
        """Have the person signed in on the phone, as of old."""
        own = [row for row in self._device.rows(Grant) if row.account == request["account"]]
        if own:
            return
        grant = Grant(
            f"own-{request['account']}", "", "", request["issuer"], request["client_id"], f"{request['issuer']}/token",
            "", request["scope"], "", f"{SUBJECT}-of-{request['account']}", request["account"], "entra", 0, False, 0,
            RefreshToken(f"{OWN_TOKEN}-{request['account']}"),
        )  # fmt: skip
        self._edit(lambda tx: tx.put(grant))

    def _edit(self, step: Callable[[Transaction], None]) -> None:
        """Change the disk from outside: nothing that the device did."""
        self._device.disk.store.transact(step, lambda: None)

    @property
    def _phone(self) -> OurPhone:
        assert isinstance(self._device, OurPhone)
        return self._device

    def _peer_id(self) -> str:
        rows = self._device.rows(Pairing)
        return max(rows, key=lambda row: row.state == "active").peer_id

    def _at_the_phone(self, request: HttpRequest) -> Answer | Awaitable[Answer]:
        form = form_of(request)
        used = form.get("refresh_token", "")
        mine = f"own-{used.removeprefix(f'{OWN_TOKEN}-')}"  # the phone may refresh another person's grant meanwhile
        obtaining = [row for row in self._device.rows(PhoneHandoff) if row.is_obtaining and row.grant_id == mine]
        if request.method == "GET":  # discovery
            return answered(200, {"issuer": ISSUER, "token_endpoint": TOKEN_ENDPOINT, "authorization_endpoint": ISSUER})
        if not used.startswith(OWN_TOKEN):
            return NO_ANSWER
        if not obtaining:  # the phone's own refresh
            return tokens("")
        return self._branch(obtaining[-1].handoff_id)

    async def _branch(self, handoff_id: str) -> Answer:
        token = await self._asking.wait(handoff_id)
        if token is None:
            return NO_ANSWER
        if not token:
            return answered(400, {"error": "invalid_grant", "error_description": "AADSTS70000: revoked"})
        row = next(row for row in self._device.rows(PhoneHandoff) if row.handoff_id == handoff_id)
        # The companion's grant is of the same sign-in as the phone's own, so that one has these fields too.
        own = next(grant for grant in self._device.rows(Grant) if grant.grant_id == row.grant_id)
        known = {
            name: token[name] or ""
            for name in ("token_endpoint", "revocation_endpoint", "audience", "subject", "account")
        }
        scope = _granted(token["scope"], row.scope, token["profile"])
        fields = {**known, "scope": scope, "signed_in_at": token["signed_in_at"], "is_otp": token["is_otp"]}
        self._edit(lambda tx: tx.put(replace(tx.get(Grant, own.grant_id) or own, **fields)))
        return tokens(token["scope"], token["refresh_token"])

    def _do_obtained(self, request: Json) -> None:
        self._asking.answer(request["handoff_id"], request["token"])

    def _do_not_obtained(self, request: Json) -> None:
        self._asking.answer(request["handoff_id"], {} if request["why"] == "refused" else None)

    def _do_cancel(self, request: Json) -> None:
        self._behind(self._phone.agent.cancel(self._peer_id()))

    async def _do_revoke(self, request: Json) -> None:
        self._behind(self._phone.agent.revoke(self._peer_id(), wait_s=0.0))

    async def _do_forget(self, request: Json) -> None:
        await self._device.call(self._phone.agent.forget(self._peer_id()))

    def _do_allow(self, request: Json) -> None:
        self._phone.set(allow_refresh_token_access=request["is_open"])

    def _do_scan(self, request: Json) -> None:
        self._confirmed: asyncio.Future[bool] = self._device.loop.create_future()

        async def confirm(number: str, name: str) -> bool:
            return await self._confirmed

        self._behind(self._phone.agent.pairing.pair(request["invitation"], confirm))

    def _do_confirm(self, request: Json) -> None:
        self._confirmed.set_result(True)

    def _do_decline(self, request: Json) -> None:
        self._confirmed.set_result(False)

    # -- what happens at a companion

    @property
    def _companion(self) -> OurCompanion:
        assert isinstance(self._device, OurCompanion)
        return self._device

    def _at_the_companion(self, request: HttpRequest) -> Answer | Awaitable[Answer]:
        form = form_of(request)
        if "token" in form:  # RFC 7009
            handoff_id = next((row.handoff_id for row in self._device.rows(Grant) if row.state == "dead"), "")
            self._revoking[handoff_id] = future = self._device.loop.create_future()
            return future
        return self._refreshing if "refresh_token" in form else NO_ANSWER

    def _grant(self, handoff_id: str) -> Grant:
        return next(row for row in self._device.rows(Grant) if row.handoff_id == handoff_id)

    async def _do_refresh(self, request: Json) -> None:
        grant = self._grant(request["handoff_id"])
        number = grant.generation + 1
        answers: dict[str, Answer] = {
            "rotated": tokens(grant.scope, f"0.rotated-{number}"),
            "denied": answered(400, {"error": "invalid_grant", "error_codes": [700082]}),
            "person": answered(400, {"error": "interaction_required"}),
            "uncertain": AnswerLost("connection reset"),
        }
        self._refreshing = answers[request["becomes"]]
        await self._token(grant, force=True)
        if request["becomes"] == "uncertain":  # the next look finds that it is not safe
            await self._token(grant, force=True)
        self._refreshing = USUAL

    async def _token(self, grant: Grant, *, force: bool) -> bool:
        phone = {row.pairing_id: row.peer_id for row in self._device.rows(Pairing)}[grant.pairing_id]
        query: Json = {"account": grant.account, "issuer": grant.issuer, "phones": frozenset({phone}), "timeout_s": 0.2}
        return isinstance(await self._device.token(**query, force_refresh=force), TokenGranted)

    async def _do_ask(self, request: Json) -> Json:
        grant = self._grant(request["handoff_id"])
        answer = await self._token(grant, force=False)
        return {"token": answer}

    def _do_provider(self, request: Json) -> None:
        answers: dict[str, Answer] = {
            "accepted": answered(200, {}),
            "refused": answered(400, {"error": "unsupported_token_type"}),
            "unreachable": NO_ANSWER,
        }
        self._revoking.popitem()[1].set_result(answers[request["says"]])

    async def _do_erase(self, request: Json) -> None:
        await self._companion.forget()

    async def _do_invite(self, request: Json) -> Json:
        return {"invitation": await self._device.call(self._companion.agent.invitations.show())}

    # -- what is durable

    def _do_state(self, request: Json) -> Json:
        device = self._device
        is_phone = isinstance(device, OurPhone)
        state: Json = {"pairings": {}}
        for pairing in device.rows(Pairing):
            rows: list[Any] = device.rows(PhoneHandoff if is_phone else CompanionHandoff, pairing_id=pairing.pairing_id)
            requests = device.rows(Outgoing, pairing_id=pairing.pairing_id)
            of: Json = {
                "state": pairing.state,
                "handoffs": {row.handoff_id: _spelled(row) for row in rows if _spelled(row) not in ("NEW", "NONE")},
                "open": [f"{row.type} {row.handoff_id}".strip() for row in requests],
            }
            if is_phone:
                of["may_renew"] = not pairing.renew_denied
                of["held"] = [row.handoff_id for row in rows if row.held_token is not None]
            else:
                of["grants"] = self._grants(pairing)
                of["keys"] = [row.handoff_id for row in rows if row.one_time_key is not None]
            state["pairings"][pairing.pairing_id] = of
        if is_phone:
            own = [row.state for row in device.rows(Grant) if row.state != "dead"]  # with move it may be there alone
            state |= {"own_grants": "locked" if "locked" in own else "held"} if own else {}
        return {"state": state}

    def _grants(self, pairing: Pairing) -> Json:
        found = {}
        for grant in self._device.rows(Grant, pairing_id=pairing.pairing_id):
            if grant.state != "dead":
                held = lease_of(grant)
                left_s = lease.left_s(held, self._device.clock.now()) if held is not None else None
                is_over = left_s is not None and left_s <= 0
                usable = grant.state in ("held", "refreshing", "uncertain") and not is_over
                found[grant.handoff_id] = {
                    "state": grant.state,
                    "generation": grant.generation,
                    "may_be_used": usable,
                }
        return found


def _spelled(row: Record) -> str:
    """Name a state as the tables do."""
    if isinstance(row, PhoneHandoff):
        state: Any = phone_state(row)
        if state == handoff.Offered(is_accepted=True):
            return "ACCEPTED"
    else:
        assert isinstance(row, CompanionHandoff)
        state = companion_state(row)
        if isinstance(state, handoff.HandoffStored):
            return "STORED"
        if isinstance(state, handoff.NoHandoff):
            return "NONE"
    reason = f"({state.reason})" if hasattr(state, "reason") else ""
    return type(state).__name__.upper() + reason + (" stored" if getattr(state, "was_stored", False) else "")


def main() -> None:
    """Answer standard input line by line; the agents' log goes to standard error."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    end = OurEnd()
    for line in sys.stdin:
        print(json.dumps(end.ask(json.loads(line))), flush=True)
    end.close()


if __name__ == "__main__":
    main()
