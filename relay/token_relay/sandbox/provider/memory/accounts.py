"""A person's account as the provider keeps it, and what an event does to the tokens already issued.

The account decides how its person signs in, not the client. Revocation is a mark on the person, not on tokens: a
sign-in that is older than the mark is refused. There are two marks, since some events end tokens of a password sign-in
and leave those of a code sign-in alone. Source of the table: Microsoft's documentation of refresh token revocation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from token_relay.protocol.secret import Password
from token_relay.sandbox.provider.world.contacts import Channel, contact
from token_relay.sandbox.provider.world.model import Mfa, UserModel
from token_relay.sandbox.provider.world.rules import guid_of

FirstFactor = Literal["password", "oob"]
AccountEvent = Literal[
    "password_expired",
    "password_changed",
    "admin_reset_portal",
    "admin_reset_admin_center",
    "revoke_all",
    "single_sign_out",
    "claims_challenge",  # ours: only access tokens under continuous access evaluation are called back
]
# event: (ends what was signed in by password, ends what was signed in otherwise)
REVOKES: dict[AccountEvent, tuple[bool, bool]] = {
    "password_expired": (False, False),
    "password_changed": (True, False),
    "admin_reset_portal": (True, False),
    "admin_reset_admin_center": (True, True),
    "revoke_all": (True, True),
    "single_sign_out": (False, False),
    "claims_challenge": (False, False),
}
PAST_PASSWORDS_MAX = 3  # the present one included


@dataclass(frozen=True, slots=True)
class StrongMethod:
    """An address that second-factor codes go to, under a name that stays the same for this person and address."""

    method_id: str
    channel: Channel
    target: str


@dataclass(slots=True)
class User:
    """A person. Marks named ``..._at_seq`` are numbers of events; a mark covers what happened up to it."""

    username: str
    password: Password | None
    name: str
    mfa: Mfa = "none"
    methods: tuple[StrongMethod, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)
    email_proven: bool = False
    is_disabled: bool = False
    alias: str = ""
    is_findable: bool = False  # by phone number
    must_change_password: bool = False
    past_passwords: tuple[Password, ...] = ()
    password_revoked_at_seq: int = -1
    other_revoked_at_seq: int = -1
    challenged_at_seq: int = -1  # access tokens under continuous access evaluation are called back
    challenged_at: float = 0.0
    wrong_passwords: int = 0
    locked_until: float = 0.0

    @classmethod
    def from_model(cls, model: UserModel) -> User:
        """Return the account that the world describes."""
        username = model.username.lower()
        user = cls(
            username=username,
            password=model.password,
            name=model.name or username.partition("@")[0],
            mfa=model.mfa,
            attributes=dict(model.attributes),
            email_proven=model.email_proven,
            is_disabled=model.disabled,
            alias=(model.alias or "").lower(),
            is_findable=model.findable_by_phone,
            past_passwords=() if model.password is None else (model.password,),
        )
        for method in model.methods:
            user.add_method(method.channel, method.target)
        if user.mfa == "required" and not user.methods:
            user.add_method("email", username)
        return user

    @property
    def method(self) -> FirstFactor:
        """How this account signs in: the account decides, not the client."""
        return "password" if self.password is not None else "oob"

    @property
    def kind(self) -> str:
        """The method as a person reads it."""
        return "password" if self.password is not None else "email_code"

    @property
    def phones(self) -> list[str]:
        """The numbers that codes go to."""
        return [method.target for method in self.methods if method.channel == "sms"]

    @property
    def oid(self) -> str:
        """The account's GUID."""
        return guid_of("user", self.username)

    def add_method(self, channel: Channel, target: str) -> None:
        """Register an address for second-factor codes; one that is already registered stays as it is."""
        spelled = contact(channel, target) or target
        if all(one.target != spelled for one in self.methods):
            method = StrongMethod(guid_of("method", self.username, channel, spelled), channel, spelled)
            self.methods = (*self.methods, method)

    def set_password(self, password: Password) -> None:
        """Replace the password, and remember it among the last few."""
        self.password = password
        self.past_passwords = (password, *self.past_passwords)[:PAST_PASSWORDS_MAX]
        self.must_change_password = False
        self.wrong_passwords, self.locked_until = 0, 0.0

    def take(self, event: AccountEvent, seq: int, now: float) -> None:
        """Let an event leave its marks. ``seq`` is its number, ``now`` the provider's time."""
        of_password, of_others = REVOKES[event]
        if of_password:
            self.password_revoked_at_seq = seq
        if of_others:
            self.other_revoked_at_seq = seq
        if event == "password_expired":
            self.must_change_password = True
        if of_password or of_others or event == "claims_challenge":
            self.challenged_at_seq, self.challenged_at = seq, now

    def keep_marks_of(self, former: User) -> None:
        """Take over the marks of the account that this one replaces, so that revoked tokens stay revoked."""
        self.password_revoked_at_seq = former.password_revoked_at_seq
        self.other_revoked_at_seq = former.other_revoked_at_seq
        self.challenged_at_seq, self.challenged_at = former.challenged_at_seq, former.challenged_at

    def revoked_at_seq(self, method: str) -> int:
        """Return the mark that covers sign-ins by this method."""
        return self.password_revoked_at_seq if method == "password" else self.other_revoked_at_seq
