"""What the CA signs and what it refuses; the expected values are those of RFC 5280 and of the name rule."""

from __future__ import annotations

import base64
import string
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from hypothesis import example, given
from hypothesis import strategies as st

from token_relay.pki import certificates as pki
from token_relay.protocol.errors import LocalError, PolicyError, RelayError

E = TypeVar("E", bound=x509.ExtensionType)

NOW = datetime(2026, 3, 1, 12, 0, 0, 999_999, tzinfo=UTC)
NAME = "abcdefghijklmnopqrstuvwx27"
KEY = ec.generate_private_key(ec.SECP256R1())
CA = pki.make_authority(ec.generate_private_key(ec.SECP256R1()), serial=1, now=NOW)

NOT_DEVICE_IDS = [
    "",
    "x/in",
    "+",
    "#",
    "a" * 25,
    "a" * 27,
    "A" * 26,
    NAME[:-1] + "A",
    NAME[:-1] + "/",
    NAME[:-1] + "+",
    NAME[:-1] + "#",
    NAME[:-1] + "1",
    NAME[:-1] + "8",
    NAME[:-1] + "é",
    NAME[:-1] + "\u0430",  # Cyrillic a
    NAME[:-1] + "\uff12",  # full-width 2, a digit for str.isdigit
    NAME + "\n",
    NAME + "\0",
    " " + NAME,
    f"{NAME}/from/{NAME}",
]


def csr(
    name: str | None,
    key: CertificateIssuerPrivateKeyTypes = KEY,
    extensions: Sequence[x509.ExtensionType] = (),
    more: Sequence[x509.NameAttribute[str]] = (),
) -> bytes:
    """A request as anybody could write it, past our own checks."""
    names = ([] if name is None else [x509.NameAttribute(NameOID.COMMON_NAME, name)]) + list(more)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)


def extension(certificate: x509.Certificate | x509.CertificateRevocationList, kind: type[E]) -> x509.Extension[E]:
    return certificate.extensions.get_extension_for_class(kind)


# -- Names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOT_DEVICE_IDS)
def test_the_ca_refuses_every_name_that_is_not_a_device_id(name: str) -> None:
    with pytest.raises(PolicyError):
        pki.check_device_name(name)
    with pytest.raises(PolicyError):
        pki.sign_device(CA, pki.SigningRequest(name, KEY.public_key()), serial=2, now=NOW)
    with pytest.raises(PolicyError):
        pki.make_csr(KEY, name)
    if 0 < len(name.encode()) <= 64:  # X.520 ub-common-name
        with pytest.raises(PolicyError):
            pki.parse_csr(csr(name))


near_names = st.text(alphabet="abz27" + "A018/+#. \n\0é２", min_size=24, max_size=28)


@given(
    st.text(max_size=60) | near_names | st.text(alphabet=string.ascii_lowercase + "234567", min_size=25, max_size=27)
)
@example(NAME)
def test_a_name_is_signed_exactly_when_it_is_26_of_32_characters(name: str) -> None:
    allowed = len(name) == 26 and all(character in "abcdefghijklmnopqrstuvwxyz234567" for character in name)
    try:
        request = pki.parse_csr(csr(name)) if 0 < len(name.encode()) <= 64 else pki.check_device_name(name)
    except PolicyError:
        assert not allowed
    else:
        assert allowed
        assert not isinstance(request, str)
        assert request.device_id == name


@pytest.mark.parametrize(
    ("host", "canonical"),
    [
        ("broker.example", "broker.example"),
        ("Broker.EXAMPLE", "broker.example"),
        ("localhost", "localhost"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_a_broker_is_named_by_hosts_and_addresses(host: str, canonical: str) -> None:
    assert pki.check_host(host) == canonical


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "broker.example.",
        "*.example",
        "bücher.example",
        "a b",
        "broker:8883",
        "mqtts://broker",
        "-a.example",
        "a-.example",
        "a_b.example",
        "a" * 64 + ".example",
        "a." * 126 + "ab",
        "192.0.2",
        "192.0.2.256",
        "fe80::1%eth0",
        "broker\nexample",
        "broker.example\n",
        "a" * 26,
        "\u0131.example",
        "\u212aelvin.example",  # Kelvin sign: lower() makes an ASCII k of it
    ],
)
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(PolicyError):
        pki.check_host(host)


def test_a_broker_has_one_to_sixteen_names_and_each_once() -> None:
    assert pki.check_hosts(["A.example", "a.example", "::1", "0::1"]) == ("a.example", "::1")
    for hosts in ([], [f"h{number}.example" for number in range(17)]):
        with pytest.raises(PolicyError):
            pki.check_hosts(hosts)


@given(st.binary(min_size=20, max_size=20))
@example(bytes(20))
@example(b"\xff" * 20)
def test_a_serial_is_positive_and_fits_in_20_octets(random_bytes: bytes) -> None:
    serial = pki.serial_number(random_bytes)
    assert 0 < serial < 2**159  # RFC 5280 §4.1.2.2: the first bit of the DER octets is the sign


def test_a_serial_is_made_of_20_bytes_only() -> None:
    with pytest.raises(ValueError, match="20 random bytes"):
        pki.serial_number(bytes(19))


# -- Requests ----------------------------------------------------------------------------------------------


def test_our_own_request_is_read_back() -> None:
    request = pki.parse_csr(pki.make_csr(KEY, NAME))
    assert request.device_id == NAME
    assert request.public_key == KEY.public_key()


def test_a_request_contains_nothing_but_name_and_key() -> None:
    made = x509.load_pem_x509_csr(pki.make_csr(KEY, NAME))
    assert [attribute.value for attribute in made.subject] == [NAME]
    assert list(made.extensions) == []


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["rsa", "p384", "secp256k1", "ed25519"],
)
def test_only_p256_keys_are_signed(key: CertificateIssuerPrivateKeyTypes) -> None:
    with pytest.raises(PolicyError, match="P-256"):
        pki.parse_csr(csr(NAME, key=key))


def test_a_request_that_another_key_signed_is_refused() -> None:
    mine, theirs = (x509.load_pem_x509_csr(csr(NAME, key=ec.generate_private_key(ec.SECP256R1()))) for _ in "ab")
    der = mine.public_bytes(Encoding.DER)
    forged = der.replace(
        mine.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        theirs.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
    )
    assert forged != der
    pem = x509.load_der_x509_csr(forged).public_bytes(Encoding.PEM)
    with pytest.raises(LocalError, match="not signed with its own key"):
        pki.parse_csr(pem)


def test_whatever_else_a_request_wishes_is_dropped() -> None:
    wishes = [
        x509.BasicConstraints(ca=True, path_length=None),
        x509.SubjectAlternativeName([x509.DNSName("broker.example")]),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
    ]
    organisation = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "admins")]
    request = pki.parse_csr(csr(NAME, extensions=wishes, more=organisation))
    certificate = pki.sign_device(CA, request, serial=2, now=NOW)
    assert [(attribute.oid, attribute.value) for attribute in certificate.subject] == [(NameOID.COMMON_NAME, NAME)]
    assert extension(certificate, x509.BasicConstraints).value.ca is False
    assert list(extension(certificate, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(x509.ExtensionNotFound):
        extension(certificate, x509.SubjectAlternativeName)


def test_a_request_with_no_name_or_two_is_refused() -> None:
    second = [x509.NameAttribute(NameOID.COMMON_NAME, "b" * 26)]
    for data in (csr(None), csr(NAME, more=second)):
        with pytest.raises(PolicyError, match="one common name"):
            pki.parse_csr(data)


def test_a_request_over_8192_bytes_is_refused_unread() -> None:
    with pytest.raises(LocalError, match="8192"):
        pki.parse_csr(csr(NAME) + b"\n" * 8192)


GOOD = csr(NAME)


@given(st.binary(max_size=300))
def test_garbage_is_refused_with_a_clear_error(data: bytes) -> None:
    with pytest.raises(LocalError):
        pki.parse_csr(data)


def test_a_request_with_any_one_bit_changed_is_refused_or_says_the_same() -> None:
    """The same: the number of unused bits before the signature may change when those bits are zero."""
    good = x509.load_pem_x509_csr(GOOD).public_bytes(Encoding.DER)
    refused = 0
    for bit in range(8 * len(good)):
        der = bytearray(good)
        der[bit // 8] ^= 1 << bit % 8
        pem = b"-----BEGIN CERTIFICATE REQUEST-----\n%b-----END CERTIFICATE REQUEST-----\n" % base64.encodebytes(der)
        try:
            assert pki.parse_csr(pem) == pki.SigningRequest(NAME, KEY.public_key())
        except RelayError:
            refused += 1
    assert refused >= 8 * len(good) - 8


def test_odd_values_in_the_dropped_parts_of_a_request_do_not_even_warn() -> None:
    with pytest.warns(UserWarning, match="length"):  # of the library, about what we build here
        request = csr(NAME, more=[x509.NameAttribute(NameOID.COUNTRY_NAME, "Nowhere", _validate=False)])
    assert pki.parse_csr(request).device_id == NAME


# -- Certificates ------------------------------------------------------------------------------------------


def test_the_ca_signs_leaves_and_lists_only_for_ten_years() -> None:
    certificate = CA.certificate
    constraints = extension(certificate, x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    usage = extension(certificate, x509.KeyUsage)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.crl_sign) == (True, True, True)
    assert usage.value.digital_signature is False
    assert certificate.not_valid_before_utc == datetime(2026, 3, 1, 11, 0, 0, tzinfo=UTC)
    assert certificate.not_valid_after_utc == datetime(2036, 2, 27, 12, 0, 0, tzinfo=UTC)  # 3650 days
    assert certificate.signature_hash_algorithm is not None
    assert certificate.signature_hash_algorithm.name == "sha256"


def test_a_device_certificate_is_for_clients_and_lasts_90_days() -> None:
    certificate = pki.sign_device(CA, pki.parse_csr(GOOD), serial=77, now=NOW)
    assert certificate.serial_number == 77
    assert certificate.not_valid_before_utc == datetime(2026, 3, 1, 11, 0, 0, tzinfo=UTC)
    assert certificate.not_valid_after_utc == datetime(2026, 5, 30, 12, 0, 0, tzinfo=UTC)
    purpose = extension(certificate, x509.ExtendedKeyUsage)
    assert (purpose.critical, list(purpose.value)) == (False, [ExtendedKeyUsageOID.CLIENT_AUTH])
    usage = extension(certificate, x509.KeyUsage)
    assert (usage.critical, usage.value.digital_signature, usage.value.key_cert_sign) == (True, True, False)
    ca_key_id = extension(CA.certificate, x509.SubjectKeyIdentifier).value.digest
    assert extension(certificate, x509.AuthorityKeyIdentifier).value.key_identifier == ca_key_id
    assert certificate.public_key() == KEY.public_key()
    certificate.verify_directly_issued_by(CA.certificate)


def test_a_broker_certificate_is_for_servers_and_exactly_these_hosts() -> None:
    hosts = ["broker.example", "192.0.2.7", "2001:db8::1"]
    certificate = pki.sign_broker(CA, KEY.public_key(), hosts, serial=3, now=NOW)
    names = extension(certificate, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7", "2001:db8::1"]
    purpose = extension(certificate, x509.ExtendedKeyUsage)
    assert (purpose.critical, list(purpose.value)) == (False, [ExtendedKeyUsageOID.SERVER_AUTH])
    [common_name] = certificate.subject
    assert isinstance(common_name.value, str)
    with pytest.raises(PolicyError):  # a broker's certificate can never name a device
        pki.check_device_name(common_name.value)


def test_a_verifier_of_the_web_pki_accepts_the_broker_for_its_hosts_only() -> None:
    certificate = pki.sign_broker(CA, KEY.public_key(), ["broker.example"], serial=3, now=NOW)
    builder = PolicyBuilder().store(Store([CA.certificate])).time(NOW)
    builder.build_server_verifier(x509.DNSName("broker.example")).verify(certificate, [])
    with pytest.raises(VerificationError):
        builder.build_server_verifier(x509.DNSName("other.example")).verify(certificate, [])


def test_no_certificate_outlives_the_ca_and_an_expired_ca_signs_nothing() -> None:
    late = NOW + timedelta(days=3649)
    certificate = pki.sign_device(CA, pki.parse_csr(GOOD), serial=2, now=late)
    assert certificate.not_valid_after_utc == CA.certificate.not_valid_after_utc
    for moment in (CA.certificate.not_valid_after_utc, NOW + timedelta(days=4000)):
        with pytest.raises(LocalError, match="expired"):
            pki.sign_device(CA, pki.parse_csr(GOOD), serial=2, now=moment)


def test_a_moment_without_time_zone_is_our_own_bug() -> None:
    with pytest.raises(ValueError, match="aware"):
        pki.make_authority(KEY, serial=1, now=NOW.replace(tzinfo=None))


def test_the_revocation_list_names_the_serials_and_lasts_as_long_as_the_ca() -> None:
    revoked = [pki.Revocation(5, NOW), pki.Revocation(2**158, NOW)]
    crl = x509.load_pem_x509_crl(pki.make_crl(CA, revoked, number=9, now=NOW))
    assert {entry.serial_number for entry in crl} == {5, 2**158}
    ca_key = CA.certificate.public_key()
    assert isinstance(ca_key, ec.EllipticCurvePublicKey)
    assert crl.is_signature_valid(ca_key)
    assert extension(crl, x509.CRLNumber).value.crl_number == 9
    assert crl.next_update_utc == CA.certificate.not_valid_after_utc
    assert crl.last_update_utc <= NOW


# -- PEM ---------------------------------------------------------------------------------------------------


def test_the_ca_is_read_back_and_only_with_its_own_key() -> None:
    key_pem = pki.private_key_pem(CA.private_key)
    certificate_pem = pki.certificate_pem(CA.certificate)
    again = pki.parse_authority(certificate_pem=certificate_pem, private_key_pem=key_pem)
    assert again.certificate == CA.certificate
    with pytest.raises(LocalError, match="belong together"):
        pki.parse_authority(certificate_pem=certificate_pem, private_key_pem=pki.private_key_pem(KEY))
    leaf = pki.sign_device(CA, pki.parse_csr(GOOD), serial=2, now=NOW)
    with pytest.raises(LocalError, match="not a CA"):
        pki.parse_authority(certificate_pem=pki.certificate_pem(leaf), private_key_pem=pki.private_key_pem(KEY))


def test_an_unusable_key_file_is_refused_without_showing_it() -> None:
    locked = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"marker-passphrase"))
    other = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for pem in (b"", b"marker-garbage", locked, other, b"x" * 20_000):
        with pytest.raises(LocalError) as caught:
            pki.parse_private_key(pem)
        assert "marker" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_neither_the_ca_nor_a_request_prints_its_private_key() -> None:
    secret = CA.private_key.private_numbers().private_value
    shown = f"{CA!r} {CA} {pki.parse_csr(GOOD)!r}"
    assert str(secret) not in shown
    assert f"{secret:x}" not in shown
