"""The command: what it says at its start, what it refuses, and that it ends when told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, TCPConnector
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.sandbox.sandbox_client import OTP_USER, PASSWORD_USER, SandboxClient
from token_relay.ca import store as certs
from token_relay.protocol.errors import ConfigError
from token_relay.provider.http import is_loopback
from token_relay.sandbox.links.orders import LINK_NAMES
from token_relay.sandbox.main import SandboxOptions, run, world_of
from token_relay.sandbox.provider.world.auth0_clients import MANAGER_ID, MANAGER_SECRET, SPA_ID, WEB_ID, WEB_SECRET
from token_relay.sandbox.provider.world.model import CLIENT_ID, DEFAULT_WORLD, PASSWORD
from token_relay.sandbox.server import SandboxServer, tls_context
from token_relay.sandbox.trust import trust_lines


async def running(options: SandboxOptions, said: asyncio.Queue[str]) -> None:
    await run(options, write=said.put_nowait)


@pytest.mark.asyncio
async def test_it_says_where_everything_is_in_one_line_of_json_and_ends_on_sigterm() -> None:
    said: asyncio.Queue[str] = asyncio.Queue()
    options = SandboxOptions(http_port=0, mqtt_port=0, as_json=True, access_token_lifetime_s=5)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(running(options, said))
        line = await said.get()
        facts: dict[str, Any] = json.loads(line)
        assert line.endswith("}\n") and line.count("\n") == 1
        assert facts["issuer"] == f"{facts['http']}/aaaabbbb-0000-cccc-1111-dddd2222eeee/v2.0"
        assert facts["mqtt"].startswith("mqtt://127.0.0.1:")
        assert (facts["profile"], facts["tenant"], facts["client_id"]) == ("entra", "contoso", CLIENT_ID)
        assert facts["authority"] == f"{facts['http']}/contoso.onmicrosoft.com"
        assert facts["control"] == f"{facts['http']}/sandbox/"
        assert facts["users"][:2] == [
            {"username": OTP_USER, "kind": "email_code"},
            {"username": PASSWORD_USER, "kind": "password", "password": PASSWORD},
        ]
        assert {(user["username"], user.get("mfa", "none")) for user in facts["users"][2:]} == {
            ("mfa@contoso.example", "required"),
            ("register@contoso.example", "register"),
            ("preverified@contoso.example", "register"),
            ("reset@contoso.example", "none"),
        }
        async with ClientSession() as session:
            state = await (await session.get(f"{facts['http']}/sandbox/policy")).json()
            assert state["access_token_lifetime_s"] == 5
        os.kill(os.getpid(), signal.SIGTERM)
        await task


@pytest.mark.asyncio
async def test_it_speaks_to_persons_too_and_ends_when_cancelled() -> None:
    said: asyncio.Queue[str] = asyncio.Queue()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(running(SandboxOptions(http_port=0, mqtt_port=None, profile="strict"), said))
        text = await said.get()
        assert f"{OTP_USER} (code by e-mail)" in text and f"{PASSWORD_USER} (password {PASSWORD})" in text
        task.cancel()
    assert task.cancelled()


async def announced(options: SandboxOptions) -> str:
    said: asyncio.Queue[str] = asyncio.Queue()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(running(options, said))
        text = await said.get()
        task.cancel()
    return text


@pytest.mark.asyncio
@pytest.mark.parametrize("profile", ["entra", "auth0", "strict"])
async def test_every_client_is_named_with_its_kind_and_its_secret(profile: str) -> None:
    facts = json.loads(await announced(SandboxOptions(http_port=0, mqtt_port=None, profile=profile, as_json=True)))
    text = await announced(SandboxOptions(http_port=0, mqtt_port=None, profile=profile))
    assert facts["clients"][0] == {"client_id": CLIENT_ID, "kind": "native"}
    secrets = {one["client_id"]: one["client_secret"] for one in facts["clients"] if "client_secret" in one}
    assert secrets == ({WEB_ID: WEB_SECRET, MANAGER_ID: MANAGER_SECRET} if profile == "auth0" else {})
    lines = text.splitlines()
    for client in facts["clients"]:
        how = client["kind"] + (f", secret {client['client_secret']}" if "client_secret" in client else "")
        assert f"client     {client['client_id']} ({how})" in lines
    if profile == "auth0":
        assert {"client_id": SPA_ID, "kind": "spa"} in facts["clients"]


@pytest.mark.asyncio
async def test_a_world_files_clients_are_named_and_no_others(tmp_path: Path) -> None:
    file = tmp_path / "world.toml"
    file.write_text('[[clients]]\nclient_id = "page"\nspa = true\n')
    facts = json.loads(await announced(SandboxOptions(http_port=0, mqtt_port=None, world=file, as_json=True)))
    assert facts["clients"] == [{"client_id": "page", "kind": "spa"}]


@pytest.mark.asyncio
async def test_over_tls_it_says_how_clients_come_to_trust_it(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    options = SandboxOptions(http_port=0, mqtt_port=None, tls_cert=cert, tls_key=key)
    text = await announced(options)
    assert "http       https://127.0.0.1:" in text
    lines = trust_lines(cert)
    assert list(lines) == ["node", "python", "curl", "chromium"]
    assert "\n".join(["clients that trust its certificate:", *lines.values()]) in text
    assert json.loads(await announced(replace(options, as_json=True)))["trust"] == lines
    plain = await announced(SandboxOptions(http_port=0, mqtt_port=None))
    assert "trust" not in plain


def test_the_ca_is_the_one_that_signed_the_certificate_and_is_found_beside_it(tmp_path: Path) -> None:
    made = certs.init(tmp_path / "ca", hosts=("localhost",))
    other = certs.init(tmp_path / "other", hosts=("localhost",))
    assert made.broker is not None and other.broker is not None
    beside = made.broker.path.with_name("ca.pem")
    assert f"={beside}" in trust_lines(made.broker.path)["node"]
    # A foreign ca.pem, none, or one that is none: nobody is told to trust it.
    for content in (other.ca_certificate.read_bytes(), b"", b"-----BEGIN CERTIFICATE-----\n"):
        beside.write_bytes(content)
        assert trust_lines(made.broker.path) == {}
    beside.unlink()
    assert trust_lines(made.broker.path) == {}
    # A chain that ends with its CA is a CA file itself.
    chain = tmp_path / "with blanks" / "chain.pem"
    chain.parent.mkdir()
    chain.write_bytes(made.broker.path.read_bytes() + made.ca_certificate.read_bytes())
    assert trust_lines(tmp_path / "absent.pem") == trust_lines(made.broker.path.with_name("broker.key")) == {}
    assert trust_lines(chain)["curl"] == f"export CURL_CA_BUNDLE='{chain}'"


@pytest.mark.asyncio
async def test_plain_http_stays_on_the_loopback_interface(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "192.0.2.1", "example.com", "::"):
        with pytest.raises(ConfigError, match="loopback interface only"):
            await run(SandboxOptions(http_host=host, http_port=0, mqtt_port=None))
    assert is_loopback("127.0.0.9") and is_loopback("::1") and is_loopback("localhost")


@pytest.mark.asyncio
async def test_wrong_options_are_named(tmp_path: Path) -> None:
    absent, not_text = tmp_path / "absent.toml", tmp_path / "not_text.toml"
    not_text.write_bytes(b"\xff")
    wrong_table = tmp_path / "wrong.toml"
    wrong_table.write_text('[[networks]]\nprefix = "203.0.113.0/24"\nasn = "64500"\n')
    for options, text in [
        (SandboxOptions(profile="nobody"), "no profile 'nobody'"),
        (SandboxOptions(profile="strict", actions=absent), "strict runs no Actions"),
        (SandboxOptions(profile="auth0", http_port=0, actions=absent), "absent.toml: no such file"),
        (SandboxOptions(network_table=absent), "absent.toml: No such file"),
        (SandboxOptions(issuer_path="contoso"), "entra has a path of its own"),
        (SandboxOptions(profile="auth0", issuer_path="contoso/"), "--issuer-path contoso/ is not possible"),
        (SandboxOptions(network_table=wrong_table), "wrong.toml:3: networks"),
        (SandboxOptions(world=absent), "absent.toml: No such file"),
        (SandboxOptions(world=not_text), "not UTF-8"),
        (SandboxOptions(access_token_lifetime_s=0), "lifetime of 0"),
        (SandboxOptions(tls_cert=absent), "go together"),
        (SandboxOptions(tls_cert=absent, tls_key=absent), "cannot use the TLS certificate"),
    ]:
        with pytest.raises(ConfigError, match=text):
            await run(options)


@pytest.mark.asyncio
async def test_a_taken_port_is_named() -> None:
    async with SandboxServer(DEFAULT_WORLD, "strict", rng=random.Random(1)) as server:
        port = int(server.base_url.rpartition(":")[2])
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            await run(SandboxOptions(http_port=port, mqtt_port=None))
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            await run(SandboxOptions(http_port=0, mqtt_port=port))


@pytest.mark.asyncio
@pytest.mark.parametrize("profile", ["entra", "auth0", "strict"])
async def test_links_lead_to_the_same_provider_and_the_init_lines_through_them(profile: str) -> None:
    said: asyncio.Queue[str] = asyncio.Queue()
    async with asyncio.TaskGroup() as tasks, ClientSession() as session:
        task = tasks.create_task(running(SandboxOptions(http_port=0, mqtt_port=0, as_json=True, profile=profile), said))
        facts = json.loads(await said.get())
        assert list(facts["links"]) == list(LINK_NAMES)
        path = "contoso.onmicrosoft.com/v2.0/" if profile == "entra" else ""
        url = f"{facts['http']}/{path}.well-known/openid-configuration"
        direct = await (await session.get(url)).json()
        host = facts["http"].removeprefix("http://")
        for kind in ("phone", "companion"):
            link = facts["links"][f"{kind}-provider"]
            by_link = await (await session.get(url.replace(host, link), headers={"Host": host})).json()
            assert by_link == direct and direct["issuer"] == facts["issuer"]
            assert f"--http-route {link}" in facts["init"][kind]
        provider = facts["http"] if profile == "entra" else facts["issuer"]
        assert f"--provider {provider} --profile {profile}" in facts["init"]["phone"]
        task.cancel()


@pytest.mark.asyncio
async def test_links_have_the_ports_after_the_providers_unless_somebody_else_has_one() -> None:
    said: asyncio.Queue[str] = asyncio.Queue()
    port = free_ports(5)
    options = SandboxOptions(http_port=port, mqtt_port=0, as_json=True)
    for is_taken in (False, True):
        with contextlib.ExitStack() as stack:
            if is_taken:
                stack.enter_context(socket.create_server(("127.0.0.1", port + 4)))
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(running(options, said))
                links = json.loads(await said.get())["links"]
                task.cancel()
            ports = [int(address.rpartition(":")[2]) for address in links.values()]
            assert (ports == [port + 1, port + 2, port + 3, port + 4]) != is_taken
            assert len(set(ports)) == 4


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody has."""
    for first in range(20_000, 30_000, count):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise AssertionError("no free ports")


def test_a_world_file_and_an_option_add_up(tmp_path: Path) -> None:
    file = tmp_path / "world.toml"
    file.write_text("[policy]\nleeway_s = 5\n")
    world = world_of(SandboxOptions(world=file, access_token_lifetime_s=9))
    assert world.policy.model_dump(exclude_unset=True) == {"leeway_s": 5, "access_token_lifetime_s": 9}


@pytest.mark.asyncio
async def test_tls_serves_the_same_under_https(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    context = tls_context(cert, key)
    client_side = ssl.create_default_context(cafile=str(cert))
    server = SandboxServer(DEFAULT_WORLD, "auth0", rng=random.Random(1), tls=context)
    async with server, ClientSession(connector=TCPConnector(ssl=client_side)) as session:
        assert server.base_url.startswith("https://127.0.0.1:")
        client = SandboxClient(server, session)
        tokens = await client.sign_in()
        assert (await client.resource(tokens["access_token"])).status == 200


def self_signed(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sandbox test")])
    now = datetime.now(UTC)
    cert = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = directory / "cert.pem", directory / "key.pem"
    cert_file.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    return cert_file, key_file
