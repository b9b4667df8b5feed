"""A broker's certificate that the strict check of Python 3.13 refuses is explained by what it lacks.

The flag is set by hand, so that older Pythons check as strictly; the words are OpenSSL's own.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from token_relay.host.config import BrokerConfig
from token_relay.service.broker_advice import advice
from token_relay.service.checks.broker import trust_hint

NOW = datetime.now(UTC)
BROKER = BrokerConfig(url="mqtts://broker.invalid")  # no such host: what it shows is not known
USAGE = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


def make(directory: Path, lacking: str) -> tuple[Path, Path, Path]:
    """Make CA, certificate and key of a broker at 127.0.0.1, without one of the extensions."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    ca = builder("CA", "CA", ca_key)
    if lacking not in ("basic constraints", "critical basic constraints"):
        ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    elif lacking == "critical basic constraints":
        ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=False)
    if lacking == "certificate signing":
        ca = ca.add_extension(x509.KeyUsage(key_cert_sign=False, crl_sign=True, **USAGE), critical=True)
    elif lacking != "key usage":
        ca = ca.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **USAGE), critical=True)
    if lacking != "subject key identifier":
        ca = ca.add_extension(identifier, critical=False)
    name = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    broker = builder("broker", "CA", key).add_extension(name, critical=False)
    if lacking != "authority key identifier":
        authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
        broker = broker.add_extension(authority, critical=False)
    files = (directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
    files[0].write_bytes(ca.sign(ca_key, SHA256()).public_bytes(Encoding.PEM))
    files[1].write_bytes(broker.sign(ca_key, SHA256()).public_bytes(Encoding.PEM))
    files[2].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


def builder(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    subject_name, issuer_name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (subject, issuer))
    made = x509.CertificateBuilder().subject_name(subject_name).issuer_name(issuer_name)
    made = made.public_key(key.public_key()).serial_number(x509.random_serial_number())
    return made.not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=30))


def verdict(files: tuple[Path, Path, Path], *, is_strict: bool) -> str:
    """Shake hands in memory; return OpenSSL's words for the broker's certificate, or an empty string."""
    ca, cert, key = files
    client_side = ssl.create_default_context(cafile=str(ca))
    client_side.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if is_strict:
        client_side.verify_flags |= ssl.VERIFY_X509_STRICT
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(cert, key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(8):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as exc:
                return exc.verify_message
    return ""


@pytest.mark.parametrize(
    ("lacking", "says", "how"),
    [
        ("key usage", "key usage", "keyCertSign"),
        ("certificate signing", "key usage", "keyCertSign"),
        ("subject key identifier", "subject key identifier", "subjectKeyIdentifier=hash"),
        ("critical basic constraints", "basic constraints", "basicConstraints=critical,CA:TRUE"),
        ("basic constraints", "basic constraints", "basicConstraints=critical,CA:TRUE"),
        ("authority key identifier", "authority key identifier", "authorityKeyIdentifier=keyid"),
    ],
)
def test_what_a_strict_check_refuses_is_named_with_the_way_to_mend_it(
    tmp_path: Path, lacking: str, says: str, how: str
) -> None:
    words = verdict(make(tmp_path, lacking), is_strict=True)
    assert words
    hint = trust_hint(words, BROKER, NOW.timestamp())
    what, _, way = hint.partition(", which Python 3.13 checks: ")
    assert says in what
    assert how in way
    broker = BrokerConfig(url="mqtts://127.0.0.1", ca=tmp_path / "ca.pem")
    assert advice(f"certificate not accepted: {words}", broker, NOW.timestamp()) == hint


def test_a_whole_chain_passes_and_a_chain_without_key_usage_passes_the_older_check(tmp_path: Path) -> None:
    assert verdict(make(tmp_path, ""), is_strict=True) == ""
    assert verdict(make(tmp_path, "key usage"), is_strict=False) == ""


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("unable to get local issuer certificate", "of another CA"),
        ("self-signed certificate in certificate chain", "of another CA"),
        ("certificate has expired", "certs renew"),
        ("certificate is not yet valid", "set the clock"),
        ("Hostname mismatch, certificate is not valid for 'b'.", "certs issue broker.invalid"),
        ("IP address mismatch, certificate is not valid for '127.0.0.1'.", "certs issue broker.invalid"),
    ],
)
def test_the_other_refusals_keep_their_advice(words: str, hint: str) -> None:
    assert hint in trust_hint(words, BROKER, NOW.timestamp())
