"""A broker that cannot be used: what is said, and how often."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from token_relay.host.config import BrokerConfig
from token_relay.pki import certificates as pki
from token_relay.service.broker_advice import REFUSED, WAITS, Adviser, advice
from token_relay.service.checks import broker as broker_check

NOW = datetime(2030, 1, 2, tzinfo=UTC)
DEVICE = "a" * 26


def enrolled(directory: Path) -> BrokerConfig:
    """Make a device's three files, signed at NOW by a CA of its own."""
    directory.mkdir()
    authority = pki.make_authority(ec.generate_private_key(ec.SECP256R1()), serial=1, now=NOW)
    key = ec.generate_private_key(ec.SECP256R1())
    request = pki.parse_csr(pki.make_csr(key, DEVICE))
    for name, data in (
        ("ca.pem", pki.certificate_pem(authority.certificate)),
        ("device.pem", pki.certificate_pem(pki.sign_device(authority, request, serial=2, now=NOW))),
        ("device.key", pki.private_key_pem(key)),
    ):
        (directory / name).write_bytes(data)
        (directory / name).chmod(0o600)
    return BrokerConfig(
        url="mqtts://broker.example:8883",
        ca=directory / "ca.pem",
        cert=directory / "device.pem",
        key=directory / "device.key",
    )


@pytest.mark.parametrize(
    ("days", "said"), [(100, "expired on"), (-3, "is valid from"), (1, "revoked, or the broker trusts another CA")]
)
def test_refused_certificate_is_looked_at_here_first(tmp_path: Path, days: int, said: str) -> None:
    broker = enrolled(tmp_path / "home")
    assert said in advice(REFUSED, broker, (NOW + timedelta(days=days)).timestamp())


def test_certificate_of_another_ca_is_recognised(tmp_path: Path) -> None:
    broker, other = enrolled(tmp_path / "home"), enrolled(tmp_path / "other")
    assert broker.ca is not None and other.ca is not None
    broker.ca.write_bytes(other.ca.read_bytes())
    said = advice(REFUSED, broker, (NOW + timedelta(days=1)).timestamp())
    assert "is of another CA than" in said and str(broker.cert) in said


def test_missing_file_is_named(tmp_path: Path) -> None:
    broker = enrolled(tmp_path / "home")
    assert broker.cert is not None
    broker.cert.unlink()
    said = advice("certificate file not readable: unnamed", broker, NOW.timestamp())
    assert str(broker.cert) in said and "certs sign" in said


def test_a_certificate_of_another_device_is_named(tmp_path: Path) -> None:
    broker, other = enrolled(tmp_path / "home"), enrolled(tmp_path / "other")
    assert broker.key is not None and other.key is not None
    broker.key.write_bytes(other.key.read_bytes())
    said = advice("certificate and key do not belong together", broker, NOW.timestamp())
    assert said.startswith(f"{broker.key} is not the key of the certificate, which is of ")


@pytest.mark.parametrize(("host", "said"), [("broker.example", "by now"), ("other.example", "certs issue")])
def test_a_certificate_that_was_exchanged_meanwhile_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, said: str
) -> None:
    authority = pki.make_authority(ec.generate_private_key(ec.SECP256R1()), serial=1, now=NOW)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    certificate = pki.sign_broker(authority, key, [host], serial=2, now=NOW)
    monkeypatch.setattr(broker_check, "look", lambda *_: certificate)  # what the broker shows by now
    reason = "certificate not accepted: Hostname mismatch, certificate is not valid for 'broker.example'."
    assert said in advice(reason, enrolled(tmp_path / "home"), (NOW + timedelta(days=1)).timestamp())


def test_clock_that_was_never_set_is_named_before_any_certificate(tmp_path: Path) -> None:
    said = advice("certificate not accepted: certificate is not yet valid", enrolled(tmp_path / "home"), 86_400.0)
    assert said.startswith("the clock says 1970-01-02")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("not authorized", "access list"),
        ("host name not found", "broker.url"),
        ("another connection uses this client id", "copied disk"),
        ("connection refused", WAITS),
    ],
)
def test_other_reasons_need_no_file(reason: str, said: str) -> None:
    assert said in advice(reason, BrokerConfig(url="mqtt://127.0.0.1:1"), NOW.timestamp())


@pytest.mark.asyncio
async def test_same_reason_is_said_once_until_the_broker_was_there_again() -> None:
    adviser = Adviser(BrokerConfig(url="mqtt://127.0.0.1:1"), NOW.timestamp)
    with capture_logs() as logs:
        for reason in ("connection refused",) * 1000:
            await adviser.failed(reason)
        await adviser.failed("no answer from the broker")
        adviser.connected()
        await adviser.failed("no answer from the broker")
        await adviser.failed("")
    assert [log["reason"] for log in logs] == ["connection refused", *["no answer from the broker"] * 2]
    assert {log["log_level"] for log in logs} == {"warning"}
