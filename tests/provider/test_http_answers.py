"""A good answer is a good answer, whatever it is wrapped in: packing, chunks, hints before it, cookies around it."""

from __future__ import annotations

import gzip
import tomllib
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from tests.provider.http_kit import answering, raw_answer, serve
from token_relay.host.http import AioHttp, unpack
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
    assert unpack(b"{" + body, said) == b"{" + body
    assert unpack(gzip.compress(b"{" + body), said) == b"{" + body
    unpacked = unpack(body, said)
    assert unpacked is not None and len(unpacked) <= RESPONSE_BYTES_MAX


@pytest.mark.parametrize("said", ["gzip", "deflate", ""])
@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, raw_deflate], ids=["gzip", "zlib", "raw"])
def test_body_that_unpacks_to_more_than_the_limit_is_never_unpacked_whole(
    said: str, pack: Callable[[bytes], bytes]
) -> None:
    """The limit is kept on the way: 64 times as much would be in memory otherwise."""
    body = pack(bytes(64 * RESPONSE_BYTES_MAX))
    assert len(body) < RESPONSE_BYTES_MAX
    tracemalloc.start()
    try:
        unpacked = unpack(body, said)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert unpacked is None or unpacked == body
    assert (unpacked is None) == (said != "" or pack is gzip.compress)
    assert most < 4 * RESPONSE_BYTES_MAX
