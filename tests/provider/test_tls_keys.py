"""SSLKEYLOGFILE of the environment makes no connection of ours write its keys to a file."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

import pytest

from tests.cli.cli_kit import run_process
from tests.provider.http_kit import answering, raw_answer, serve
from tests.provider.test_http_port import certificate, post
from token_relay.host.config import BrokerConfig
from token_relay.host.http import AioHttp
from token_relay.mqtt import connection as mqtt
from token_relay.provider.http import HttpResponse
from token_relay.sandbox.server import tls_context
from token_relay.service.checks import broker as check

ROOT = Path(__file__).parents[2]


def shake_hands(context: ssl.SSLContext, port: int) -> None:
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1"),
    ):
        pass


@pytest.mark.asyncio
async def test_no_way_out_writes_the_keys_of_its_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ca = certificate(tmp_path, "127.0.0.1")
    keys = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(keys))
    served = tls_context(ca, tmp_path / "key.pem")
    assert served is not None
    http = AioHttp(ca_file=ca)
    async with serve(answering(raw_answer(b"{}")), served) as port:
        assert isinstance(await http.request(post(port, scheme="https")), HttpResponse)
        settings = mqtt.MqttSettings("127.0.0.1", port, "c", ca_file=ca, use_tls=True)
        await asyncio.to_thread(shake_hands, mqtt._tls_context(settings), port)
        found = await asyncio.to_thread(check.reach, BrokerConfig(url=f"mqtts://127.0.0.1:{port}", ca=ca), 0.0)
        assert "TLSv1.3" in found.detail
        await http.close()
        assert not keys.exists()
        await asyncio.to_thread(shake_hands, ssl.create_default_context(cafile=ca), port)  # what others would do
    assert "CLIENT_TRAFFIC_SECRET_0" in keys.read_text()


async def events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError):  # who only shakes hands sends nothing
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw_answer(b'{"events": []}'))
        await writer.drain()


@pytest.mark.asyncio
async def test_no_command_leaves_the_file_even_empty(tmp_path: Path) -> None:
    """aiohttp makes contexts of its own as soon as it is imported."""
    context, ca = certificate(tmp_path, "127.0.0.1")
    keys = tmp_path / "keys"
    env = {"SSLKEYLOGFILE": str(keys), "HOME": str(tmp_path)}
    async with serve(events, context) as port:
        words = ("sandbox", "ctl", "events", "--url", f"https://127.0.0.1:{port}", "--ca", str(ca))
        ran = await asyncio.to_thread(run_process, *words, env=env, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        config = (
            f'name = "p"\n[broker]\nurl = "mqtts://127.0.0.1:{port}"\nca = "{ca}"\n'
            f'[provider]\nurl = "https://127.0.0.1:{port}"\nclient_id = "c"\n'
        )
        (tmp_path / "config.toml").write_text(config)
        (tmp_path / "config.toml").chmod(0o600)
        ran = await asyncio.to_thread(run_process, "phone", "doctor", "--home", str(tmp_path), env=env, cwd=tmp_path)
        assert "TLSv1.3" in ran.stdout, ran.stdout
    assert not keys.exists()


def test_no_source_asks_for_the_context_that_heeds_it() -> None:
    sources = [path for half in ("relay", "device") for path in (ROOT / half).rglob("*.py")]
    assert len(sources) > 100
    assert [path for path in sources if "create_default_context(" in path.read_text()] == []
