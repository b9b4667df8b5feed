"""An answer given word for word in place of the provider's own: its head, its body, or all of its bytes.

A body may borrow from the real answer: ``{refresh_token}`` stands for that member of it, so the request must have been
carried out; ``{x 20000}`` stands for that many letters x.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from token_relay.sandbox.provider.http_values import Response

BODY_CHARS_MAX = 32_768  # as it is written; an order to the control interface has at most 64 KiB
FILLING_MAX = 524_288  # letters that one answer is filled with: twice what a client reads
BORROWED = ("access_token", "refresh_token", "id_token")
_BORROWS = re.compile(rf"\{{({'|'.join(BORROWED)})\}}")
_FILLS = re.compile(r"\{x (\d{1,6})\}", re.ASCII)
_DEFLATE_BYTES_MAX = 65_535  # of one stored block, RFC 1951 §3.2.4

Header = Annotated[
    list[Annotated[str, StringConstraints(max_length=16_384, pattern=r"^[^\r\n\x00]*$")]],
    Field(min_length=2, max_length=2),
]


class AnswerModel(BaseModel):
    """One answer. ``raw``: the body is the whole answer, from the first status line to the last byte.

    Otherwise ``Content-Length`` and ``Connection: close`` are added where no header speaks of the length. ``packed``:
    the body is sent as raw deflate, or in two chunks with extensions and a trailer.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)
    status: Annotated[int, Field(ge=200, le=999)]
    headers: Annotated[list[Header], Field(max_length=50)] = []
    body: Annotated[str, StringConstraints(max_length=BODY_CHARS_MAX)] = ""
    body_base64: Annotated[str, StringConstraints(max_length=BODY_CHARS_MAX)] = ""
    packed: Literal["", "deflate", "chunked"] = ""
    raw: bool = False

    @model_validator(mode="after")
    def _is_whole(self) -> AnswerModel:
        if self.body and self.body_base64:
            raise ValueError("body and body_base64 exclude each other")
        try:
            binary = base64.b64decode(self.body_base64, validate=True)
            self.body.encode()
        except (binascii.Error, UnicodeEncodeError):
            raise ValueError("body is not text, or body_base64 is not base64") from None
        if self.raw and (self.headers or self.packed or b" %d" % self.status not in (binary or self.body.encode())):
            raise ValueError("raw: the body has the status line and the headers")
        if sum(int(one) for one in _FILLS.findall(self.body)) > FILLING_MAX:
            raise ValueError(f"a body is filled with at most {FILLING_MAX} letters")
        return self

    @property
    def borrows(self) -> bool:
        """Whether a part of the real answer stands in it."""
        return _BORROWS.search(self.body) is not None

    @property
    def media_type(self) -> str:
        """The media type in lower case, without parameters; of a raw answer the last one in it."""
        lines = self.body.split("\r\n") if self.raw else [": ".join(one) for one in self.headers]
        found = [line.partition(":")[2] for line in lines if line.lower().startswith("content-type:")]
        return found[-1].partition(";")[0].strip().lower() if found else ""

    def response(self, real: Response | None) -> Response:
        """Return the answer; ``real`` is the one that it replaces, None where nothing was carried out."""
        body = _FILLS.sub(lambda found: "x" * int(found[1]), self.body)
        if self.borrows:
            members = _members(real)
            body = _BORROWS.sub(lambda found: members.get(found[1], ""), body)
        octets = base64.b64decode(self.body_base64) or body.encode()
        if self.raw:
            return Response(self.status, raw=octets)
        headers = [tuple(one) for one in self.headers]
        if self.packed == "deflate":
            octets = _stored(octets)
        elif self.packed == "chunked":
            octets = _chunked(octets)
            headers.append(("Transfer-Encoding", "chunked"))
        if not {name.lower() for name, _ in headers} & {"content-length", "transfer-encoding"}:
            headers += [("Content-Length", str(len(octets))), ("Connection", "close")]
        head = "".join(f"{name}: {value}\r\n" for name, value in headers)
        return Response(self.status, raw=f"HTTP/1.1 {self.status} -\r\n{head}\r\n".encode() + octets)


def _members(real: Response | None) -> dict[str, str]:
    try:
        found = json.loads(real.body) if real is not None else {}
    except ValueError:
        found = {}
    return {name: text for name in BORROWED if isinstance(text := found.get(name), str)}


def _chunked(octets: bytes) -> bytes:
    """Return octets in two chunks, RFC 9112 §7.1."""
    half = len(octets) // 2
    chunks = b"".join(b"%x;x=y\r\n%s\r\n" % (len(one), one) for one in (octets[:half], octets[half:]) if one)
    return chunks + b"0\r\nX-Trailer: 1\r\n\r\n"


def _stored(octets: bytes) -> bytes:
    """Return octets as raw deflate, in stored blocks."""
    parts = [octets[at : at + _DEFLATE_BYTES_MAX] for at in range(0, len(octets), _DEFLATE_BYTES_MAX)] or [b""]
    return b"".join(
        bytes([at == len(parts) - 1]) + len(one).to_bytes(2, "little") + (len(one) ^ 0xFFFF).to_bytes(2, "little") + one
        for at, one in enumerate(parts)
    )
