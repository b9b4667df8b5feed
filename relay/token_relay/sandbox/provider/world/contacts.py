"""Addresses that a code can be sent to: e-mail addresses and phone numbers, their spellings and their masks."""

from __future__ import annotations

import re
from typing import Literal

Channel = Literal["email", "sms"]
EMAIL_CHARS_MAX = 254  # RFC 5321 §4.5.3.1.3, less the angle brackets
_EMAIL = re.compile(r"[!-?A-~]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+", re.ASCII)
_PHONE = re.compile(r"\+[1-9][0-9]{6,14}", re.ASCII)  # E.164: 15 digits at most
_PHONE_FILLER = str.maketrans("", "", " -().")


def contact(channel: Channel, target: str) -> str | None:
    """Return the one spelling of an address under which its mailbox is kept, or None if it is not an address."""
    match channel:
        case "email":
            email = target.strip().lower()
            return email if len(email) <= EMAIL_CHARS_MAX and _EMAIL.fullmatch(email) else None
        case "sms":
            phone = target.translate(_PHONE_FILLER)
            return phone if _PHONE.fullmatch(phone) else None


def mailbox(address: str) -> str:
    """Return the mailbox that a person typed in: a phone number in any spelling, else the text in lower case."""
    return contact("sms", address) or address.strip().lower()


def masked(address: str) -> str:
    """Show as much of an address as its owner needs: ``o***p@co***.example``, ``+*********99``."""
    if address.startswith("+"):
        return f"+{'*' * (len(address) - 3)}{address[-2:]}"
    local, _, domain = address.partition("@")
    if not domain:
        return f"{address[:1]}***"
    host, dot, rest = domain.partition(".")
    return f"{local[:1]}***{local[-1:]}@{host[:2]}***{dot}{rest}"
