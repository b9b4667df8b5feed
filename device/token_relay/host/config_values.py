"""The kinds of values that settings have, and the base of every table of the file. Pure.

The settings themselves: :mod:`.config`, and :mod:`.provider_config` for what concerns the identity provider.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args, get_origin
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from token_relay.provider.http import url_problem


class Section(BaseModel):
    """A table of the file. It is frozen, accepts no unknown key, and keeps wrong input out of its errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


def table_of(annotation: object) -> tuple[type[Section] | None, bool]:
    """Return the table that a field is, if it is one, and whether it may stand several times in the file."""
    is_list = get_origin(annotation) is list
    kind = get_args(annotation)[0] if is_list else annotation
    return (kind, is_list) if isinstance(kind, type) and issubclass(kind, Section) else (None, False)


def split_url(url: str) -> SplitResult:
    """Split a URL and read its port, so that every fault is a ValueError in plain words."""
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("must be a URL of printable ASCII characters without spaces")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("is not a valid URL: check host and port") from None
    if not parts.hostname or port == 0:
        raise ValueError("has no usable host or port")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not carry a user name or password")
    return parts


def printable_name(name: str) -> str:
    """Check a name that people read."""
    if not name.isprintable() or name != name.strip():
        raise ValueError("must be printable and without spaces at its ends")
    return name


def _path(value: object, info: ValidationInfo) -> object:
    """Make a path; a relative one starts at the directory of the configuration file."""
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("must be the path of a file")
    if value.startswith("~"):
        raise ValueError("must not begin with ~: write the whole path, or one relative to this file")
    context = info.context
    base = context.get("base") if isinstance(context, dict) else None
    return base / value if isinstance(base, Path) else Path(value)


def _endpoint(url: str) -> str:
    if problem := url_problem(url):
        raise ValueError(problem)
    return url


Text = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(printable_name)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
IdleDays = Annotated[int, Field(ge=1, le=3650)] | None
FilePath = Annotated[Path, BeforeValidator(_path)]
IDLE_DAYS = (
    "After how many days without use the provider ends a grant, when the provider does not tell: 1 to 3650. The agent "
    "refreshes before that. Without it, what the profile knows."
)
PROVIDER_CA = (
    "Certificate of a private CA that the provider's certificate may be signed by, beside the system's CAs. A renewed "
    "file is read by itself."
)
