"""What the demo reads of the programs' answers: no more than the story needs, checked once, here.

Fields that are not named are ignored; a program may say more. Nothing in here is a secret but the sandbox's own
password and the access token that an app is given.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from token_relay.protocol.secret import AccessToken, Password


class View(BaseModel):
    """Base of all views; a value that does not fit is never quoted."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class Action(View):
    """The one thing that a person must do."""

    slug: str
    sentence: str


class Connection(View):
    """Whether an agent has reached its broker."""

    connected: bool


class GrantView(View):
    """A grant as ``status`` shows it."""

    state: str
    reason: str = ""
    generation: int


class HandoffView(View):
    """A handoff as the phone's ``status`` shows it."""

    state: str
    device_confirmed: bool | None = None
    provider_revoked: str = ""


class PeerView(View):
    """A paired device as ``status`` shows it; ``handoffs`` on the phone only."""

    unanswered: tuple[str, ...] = ()
    handoffs: tuple[HandoffView, ...] = ()


class AgentStatus(View):
    """Either agent's ``status --json``."""

    device_id: str
    broker: Connection
    counters: dict[str, int] = {}
    action: Action | None = None
    accounts: tuple[GrantView, ...] = ()
    grants: tuple[GrantView, ...] = ()
    devices: tuple[PeerView, ...] = ()
    phones: tuple[PeerView, ...] = ()

    @property
    def slug(self) -> str:
        """The slug of what a person must do, or an empty string."""
        return "" if self.action is None else self.action.slug

    @property
    def is_settled(self) -> bool:
        """Whether every request to the other end has its answer."""
        return not any(peer.unanswered for peer in (*self.devices, *self.phones))

    @property
    def grant(self) -> GrantView:
        """The newest grant, or an empty one."""
        return self.grants[-1] if self.grants else GrantView(state="none", generation=0)


class AuditRow(View):
    """A row of an agent's audit table."""

    number: int
    name: str
    detail: str = ""


class AuditRows(View):
    """An agent's ``events``."""

    events: tuple[AuditRow, ...]


class User(View):
    """A made-up person of the sandbox."""

    username: str
    password: Password | None = None


class SandboxFacts(View):
    """What the sandbox announces about itself."""

    http: str
    issuer: str
    mqtt: str
    tenant: str
    client_id: str
    users: tuple[User, ...]


class ProviderEvent(View):
    """Something that happened at the provider."""

    id: int
    kind: str
    generation: int | None = None
    used_generation: int | None = None
    reason: str = ""


class ProviderEvents(View):
    """The provider's record from some event on."""

    events: tuple[ProviderEvent, ...]
    last_event_id: int


class BrokerMessage(View):
    """All that the broker knows of a message."""

    number: int
    topic: str
    payload_bytes: int


class BrokerMessages(View):
    """The broker's record from some message on."""

    messages: tuple[BrokerMessage, ...]
    last_number: int


class TokenReply(View):
    """The token API's answer: a token, or why there is none."""

    access_token: AccessToken | None = None
    error: str = ""
    detail: str = ""
    action: str = ""
