"""A good answer is a good answer, whatever it is wrapped in: packing, chunks, hints before it, cookies around it."""

from __future__ import annotations

import gzip
import tomllib
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from tests.provider.http_kit import answering, raw_answer, serve
from token_relay.host.http import AioHttp, _unpack
from token_relay.provider.http import RESPONSE_BYTES_MAX, HttpRequest, HttpResponse

ANSWERS = Path(__file__).parent / "answers" / "wrappings.toml"
BODY = b'{"access_token": "at"}'


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


PACKS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda body: body,
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "deflate": raw_deflate,
    "gzip without its end": lambda body: gzip.compress(body)[:-4],
}


class Wrapping(BaseModel):
    """One way to send ``BODY``: with these header lines and packed so, or ``raw`` as it stands, @ being the body."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    lines: list[str] = []
    pack: str = ""
    raw: str = ""

    def to_bytes(self) -> bytes:
        """Return the answer as it goes over the wire."""
        if self.raw:
            return self.raw.replace("@", BODY.decode()).encode("latin-1")
        grown = [line.replace("@64K@", "x" * 65_536) for line in self.lines]
        return raw_answer(PACKS[self.pack](BODY), *grown)


WRAPPINGS = [Wrapping.model_validate(row) for row in tomllib.loads(ANSWERS.read_text())["wrapping"]]


@pytest.mark.asyncio
@pytest.mark.parametrize("wrapping", WRAPPINGS, ids=lambda wrapping: wrapping.name)
async def test_a_good_answer_arrives_however_it_is_wrapped(wrapping: Wrapping) -> None:
    http = AioHttp()
    async with serve(answering(wrapping.to_bytes())) as port:
        answer = await http.request(HttpRequest("POST", f"http://127.0.0.1:{port}/token", form=(("a", "b"),)))
    await http.close()
    assert isinstance(answer, HttpResponse)
    assert (answer.status, answer.body) == (200, BODY)


@pytest.mark.asyncio
async def test_what_cannot_be_unpacked_comes_as_it_is() -> None:
    http = AioHttp()
    for encoding in ("gzip", "deflate", "br"):
        async with serve(answering(raw_answer(b"\x0b\x01\x80not packed", f"Content-Encoding: {encoding}"))) as port:
            answer = await http.request(HttpRequest("POST", f"http://127.0.0.1:{port}/token", form=(("a", "b"),)))
        assert isinstance(answer, HttpResponse)
        assert answer.body == b"\x0b\x01\x80not packed"
    await http.close()


@given(
    st.binary(max_size=200) | st.just(BODY), st.sampled_from(["", "gzip", "deflate", "br", "GZIP, deflate", "\udcff"])
)
def test_whatever_is_said_of_a_body_no_byte_of_it_is_lost(body: bytes, said: str) -> None:
    assert _unpack(b"{" + body, said) == b"{" + body
    assert _unpack(gzip.compress(b"{" + body), said) == b"{" + body
    unpacked = _unpack(body, said)
    assert unpacked is not None and len(unpacked) <= RESPONSE_BYTES_MAX
