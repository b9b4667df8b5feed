"""Microsoft's JavaScript SDK, unmodified, through every flow of the sandbox: what the SDK accepts is the contract.

The cases are in ``cases.mjs``. They run twice in one Node process each: with the sandbox's authority as the SDK's proxy
URL over plain HTTP, and as an authority of its own over TLS. The packages come from the npm registry, at the versions
that ``package.json`` pins, into ``node_modules`` beside it; where there is no Node or no registry, the cases are
counted as skipped.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests import node_packages
from tests.sdk_js.spa_kit import VERSIONS
from tests.watchdog import HANG_S
from token_relay.sandbox.provider.world.model import CLIENT_ID, DEFAULT_WORLD
from token_relay.sandbox.server import SandboxServer, tls_context

HERE = Path(__file__).parent
CASES = re.findall(r'^test\("([^"]+)"', (HERE / "cases.mjs").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module", params=["proxy", "authority"])
def problems(
    request: pytest.FixtureRequest, packages: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What went wrong, by case; empty where nothing did."""
    return asyncio.run(_run(request.param, packages, tmp_path_factory.mktemp("tls")))


@pytest.mark.parametrize("name", CASES)
def test_the_javascript_sdk(problems: dict[str, str], name: str) -> None:
    assert name in problems, "the case did not run"
    assert not problems[name], problems[name]


def test_every_version_is_pinned_and_no_lock_file_names_a_registry() -> None:
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"]
    assert set(wanted) == {"jsdom", *(version["library"] for version in VERSIONS.values())}
    assert all(re.fullmatch(r"(npm:@azure/msal-browser@)?\d+\.\d+\.\d+", version) for version in wanted.values())
    assert not [*HERE.glob("*lock*"), *HERE.glob("*shrinkwrap*")]


async def _run(transport: str, packages: Path, directory: Path) -> dict[str, str]:
    tls = None
    environment = {**os.environ}
    if transport == "authority":
        cert, key = _certificate(directory)
        tls = tls_context(cert, key)
        environment["NODE_EXTRA_CA_CERTS"] = str(cert)
    async with SandboxServer(DEFAULT_WORLD, "entra", rng=random.Random(7), tls=tls) as server:
        authority = server.provider.state.urls.authority
        facts = {"base": server.base_url, "authority": authority, "clientId": CLIENT_ID}
        if transport == "authority":
            facts["authorityOnly"] = authority
        environment["SANDBOX"] = json.dumps(facts)
        node = await asyncio.create_subprocess_exec(
            node_packages.program(), "cases.mjs", cwd=packages, env=environment, stdout=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(HANG_S):
                output, _ = await node.communicate()
        finally:
            if node.returncode is None:
                node.kill()
                await node.wait()
    found = [json.loads(line) for line in output.splitlines()]
    return {one["name"]: one["problem"] for one in found}


def _certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sandbox test")])
    now = datetime.now(UTC)
    cert = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = directory / "cert.pem", directory / "key.pem"
    cert_file.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    return cert_file, key_file
