"""The broker's private certificate authority: values in, certificates out.

Theory. Mutual TLS admits a device to the broker and gives it its name there: mosquitto takes the certificate's
common name as the user, pastes it into the patterns of its access list as it is, and so decides who may read and
write which topic. A certificate therefore gives *transport* only; it never makes one device the peer of another
(pairing does that, with other keys). What must hold:

- **names first**: nothing is signed before its name was checked. A device is called by its device id, 26 characters
  ``[a-z2-7]``, and by nothing else; a broker by host names and IP addresses. No host can look like a device id.
- **only the name is taken**: we use the common name and the public key of a signing request, after the request's own
  signature has proved that the sender holds the private half. Its extensions, other subject parts and attributes are
  dropped.
- **one profile each**: P-256 everywhere; devices ``clientAuth``, broker ``serverAuth``, so that neither serves as
  the other; the CA signs leaves only (``pathLen`` 0).

This module reads no clock, no file and makes no key: ``now``, serial bytes and keys are arguments. One thing
is left to the library: an ECDSA signature contains a random number, so two equal calls give two valid,
different signatures.

Limit: devices do not look at the revocation list, only the broker does. A stolen *broker* key stays usable until its
certificate expires; hence 90 days.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from token_relay.protocol.errors import LocalError, PolicyError
from token_relay.protocol.identity import DEVICE_ID_PATTERN

CA_LIFETIME = timedelta(days=3650)  # changing the CA means visiting every device; the hardware does not last as long
LEAF_LIFETIME = timedelta(days=90)  # as short as a person can keep up with; a forgotten device drops out by itself
RENEW_BEFORE = timedelta(days=30)  # a third of the lifetime: leaves a month for failed or forgotten renewals
CLOCK_SKEW = timedelta(hours=1)  # a Pi without a clock of its own boots a little in the past; backdate for it

CSR_BYTES_MAX = 8192  # a P-256 request is about 450 bytes of PEM; room for parts that we ignore
PEM_BYTES_MAX = 16_384  # our own files: a certificate is under 1 kB
HOSTS_MAX = 16  # names of one broker
SERIAL_BYTES = 20  # RFC 5280 §4.1.2.2: at most 20 octets and positive; 159 random bits are left

BROKER_COMMON_NAME = "token relay broker"  # clients look at the SAN only (RFC 9525 §6.3); no device id has a blank
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Authority:
    """The CA: its certificate and its private key (an object that does not print the key)."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """What is taken from a signing request: a checked device id and a P-256 key whose owner signed it."""

    device_id: str
    public_key: ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class Revocation:
    """One line of the revocation list; ``at`` is aware UTC."""

    serial: int
    at: datetime


# -- Names -------------------------------------------------------------------------------------------------


def check_device_name(name: str) -> str:
    """Return ``name`` when it is a device id.

    Raises:
        PolicyError: it is anything else. Do not sign; the device writes a correct request at its ``init``.
    """
    if not DEVICE_ID_PATTERN.fullmatch(name):
        raise PolicyError(
            f"a device's certificate is named by its device id, 26 characters a-z and 2-7, not {_shown(name)}",
            hint="use the device.csr that the device's init wrote",
        )
    return name


def check_host(host: str) -> str:
    """Return a broker's host name in lower case, or its IP address in canonical form.

    Letters, digits and hyphens only (RFC 1123 §2.1), at most 253 characters, no wildcard, no trailing dot; a
    name in another script goes in its ``xn--`` form.

    Raises:
        PolicyError: the name is none of these, or could be taken for a device id.
    """
    try:
        if "%" not in host:  # an IPv6 zone id is an interface of this machine and means nothing to another
            return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    name = host.lower() if host.isascii() else host
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        raise PolicyError(
            f"{_shown(host)} is no host name and no IP address",
            hint="as in: token-relay certs issue broker.example; no port, no wildcard, other scripts as xn--",
        )
    if DEVICE_ID_PATTERN.fullmatch(name):
        raise PolicyError(f"host {name} looks like a device id", hint="use its full name with the domain")
    return name


def check_hosts(hosts: Sequence[str]) -> tuple[str, ...]:
    """Return the checked names of one broker, each once, in the order given.

    Raises:
        PolicyError: there is none, there are more than ``HOSTS_MAX``, or one of them is wrong.
    """
    if not 0 < len(hosts) <= HOSTS_MAX:
        raise PolicyError(f"a broker has 1 to {HOSTS_MAX} names, not {len(hosts)}")
    return tuple(dict.fromkeys(check_host(host) for host in hosts))


def serial_number(random_bytes: bytes) -> int:
    """Return a certificate serial made of ``SERIAL_BYTES`` fresh random bytes. RFC 5280 §4.1.2.2."""
    if len(random_bytes) != SERIAL_BYTES:
        raise ValueError(f"a serial is made of {SERIAL_BYTES} random bytes")
    return max(1, int.from_bytes(random_bytes, "big") >> 1)  # positive: the top bit is the sign in DER


def key_fingerprint(public_key: ec.EllipticCurvePublicKey) -> str:
    """Return the SHA-256 of the key's SubjectPublicKeyInfo, 64 hex digits."""
    return hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


# -- Requests ----------------------------------------------------------------------------------------------


def make_csr(private_key: ec.EllipticCurvePrivateKey, device_id: str) -> bytes:
    """Return a PEM signing request that holds a device id and a P-256 key, nothing else. RFC 2986.

    Raises:
        PolicyError: ``device_id`` is not one.
    """
    assert isinstance(private_key.curve, ec.SECP256R1)
    subject = _common_name(check_device_name(device_id))
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(private_key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM)


def parse_csr(data: bytes) -> SigningRequest:
    """Read a PEM signing request from anybody and return what may be signed.

    Raises:
        LocalError: not a readable request, or its signature is wrong: ask the device for a new one.
        PolicyError: readable, but its name or its kind of key is not allowed here.
    """
    if len(data) > CSR_BYTES_MAX:
        raise LocalError(f"a signing request has at most {CSR_BYTES_MAX} bytes, this one has {len(data)}")
    again = "give the device.csr that init wrote on the device"
    # The parser is lazy: a broken subject, key or signature algorithm shows up only when it is asked for.
    try:
        csr = x509.load_pem_x509_csr(data)
        with warnings.catch_warnings():  # about lengths of other subject parts, which we drop anyway
            warnings.simplefilter("ignore")
            names = [attribute.value for attribute in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        public_key = csr.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as exc:
        raise LocalError("not a readable PEM certificate signing request", hint=again) from exc
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
        raise PolicyError("the request's key is not a P-256 key", hint=again)
    if not csr.is_signature_valid:
        raise LocalError("the request is not signed with its own key", hint=again)
    if len(names) != 1 or not isinstance(names[0], str):
        raise PolicyError(f"a request has one common name, this one has {len(names)}", hint=again)
    return SigningRequest(check_device_name(names[0]), public_key)


# -- Certificates ------------------------------------------------------------------------------------------


def make_authority(private_key: ec.EllipticCurvePrivateKey, *, serial: int, now: datetime) -> Authority:
    """Return a new CA over ``private_key``: ten years, signs leaves and revocation lists only. RFC 5280 §4.2.1.9."""
    assert isinstance(private_key.curve, ec.SECP256R1)
    subject_key = x509.SubjectKeyIdentifier.from_public_key(private_key.public_key())
    # Eight digits of the key in the name: two CAs of one household can be told apart in an error message.
    name = _common_name(f"token relay CA {subject_key.digest.hex()[:8]}")
    certificate = (
        _builder(name, name, private_key.public_key(), serial=serial, now=now, not_after=now + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_ca=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key), critical=False)
        .sign(private_key, hashes.SHA256())
    )
    return Authority(certificate, private_key)


def sign_device(authority: Authority, request: SigningRequest, *, serial: int, now: datetime) -> x509.Certificate:
    """Return a device's client certificate: ``clientAuth``, named by the device id, ``LEAF_LIFETIME``.

    Raises:
        LocalError: the CA itself has expired.
        PolicyError: the name is not a device id (for a ``SigningRequest`` that was not made by ``parse_csr``).
    """
    subject = _common_name(check_device_name(request.device_id))
    return _sign_leaf(
        authority, subject, request.public_key, ExtendedKeyUsageOID.CLIENT_AUTH, None, serial=serial, now=now
    )


def sign_broker(
    authority: Authority, public_key: ec.EllipticCurvePublicKey, hosts: Sequence[str], *, serial: int, now: datetime
) -> x509.Certificate:
    """Return a broker's server certificate for exactly these names: ``serverAuth``, ``LEAF_LIFETIME``.

    Raises:
        LocalError: the CA itself has expired.
        PolicyError: a name is not allowed.
    """
    alt_names = x509.SubjectAlternativeName([_general_name(host) for host in check_hosts(hosts)])
    subject = _common_name(BROKER_COMMON_NAME)
    return _sign_leaf(
        authority, subject, public_key, ExtendedKeyUsageOID.SERVER_AUTH, alt_names, serial=serial, now=now
    )


def make_crl(authority: Authority, revoked: Sequence[Revocation], *, number: int, now: datetime) -> bytes:
    """Return the PEM revocation list that the broker reads. RFC 5280 §5.

    ``nextUpdate`` is the CA's own end. A list that expires makes OpenSSL refuse *every* device, and an earlier date
    buys nothing here: the broker reads the file from its own disk, so nobody on the way can hold a newer one back.
    """
    authority_key = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(_whole_second(now - CLOCK_SKEW))
        .next_update(max(authority.certificate.not_valid_after_utc, _whole_second(now)))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_key), critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for each in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(each.serial).revocation_date(_whole_second(each.at))
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(authority.private_key, hashes.SHA256()).public_bytes(Encoding.PEM)


# -- PEM ---------------------------------------------------------------------------------------------------


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Return the certificate as PEM. RFC 7468 §5."""
    return certificate.public_bytes(Encoding.PEM)


def private_key_pem(private_key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the key as unencrypted PKCS #8 PEM, for a file of mode 0600 and nothing else. RFC 7468 §10."""
    return private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def parse_private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Read a P-256 private key.

    Raises:
        LocalError: it is not one, or it has a passphrase. The message holds nothing of the file.
    """
    try:
        key = load_pem_private_key(_sized(pem), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise LocalError("not a readable PEM private key without passphrase") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise LocalError("the private key is not a P-256 key")
    return key


def parse_certificate(pem: bytes) -> x509.Certificate:
    """Read one certificate.

    Raises:
        LocalError: it is not one.
    """
    try:
        return x509.load_pem_x509_certificate(_sized(pem))
    except (ValueError, x509.InvalidVersion) as exc:
        raise LocalError("not a readable PEM certificate") from exc


def parse_authority(*, certificate_pem: bytes, private_key_pem: bytes) -> Authority:
    """Read the CA's certificate and private key.

    Raises:
        LocalError: either is unreadable, the two do not belong together, or the certificate is not a CA's.
    """
    certificate, key = parse_certificate(certificate_pem), parse_private_key(private_key_pem)
    if certificate.public_key() != key.public_key():
        raise LocalError("the CA's certificate and private key do not belong together")
    try:
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        is_ca = False
    if not is_ca:
        raise LocalError("the certificate is not a CA's")
    return Authority(certificate, key)


# -- Helpers -----------------------------------------------------------------------------------------------


def _sign_leaf(
    authority: Authority,
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    purpose: x509.ObjectIdentifier,
    alt_names: x509.SubjectAlternativeName | None,
    *,
    serial: int,
    now: datetime,
) -> x509.Certificate:
    assert isinstance(public_key.curve, ec.SECP256R1)
    ca_end = authority.certificate.not_valid_after_utc
    if now >= ca_end:
        raise LocalError(
            "the CA has expired", hint="make a new one, and sign every device: token-relay certs init --force"
        )
    issuer_key = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    not_after = min(now + LEAF_LIFETIME, ca_end)
    builder = (
        _builder(subject, authority.certificate.subject, public_key, serial=serial, now=now, not_after=not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(is_ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)  # strict verifiers want it non-critical
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key), critical=False)
    )
    if alt_names is not None:
        builder = builder.add_extension(alt_names, critical=False)
    return builder.sign(authority.private_key, hashes.SHA256())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    *,
    serial: int,
    now: datetime,
    not_after: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(_whole_second(now - CLOCK_SKEW))
        .not_valid_after(_whole_second(not_after))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,  # the one use of an ECDSA key in TLS 1.2 (ECDHE) and 1.3
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _whole_second(moment: datetime) -> datetime:
    """Drop the fraction, which X.509 times do not have; refuse a moment without time zone."""
    if moment.tzinfo is None:
        raise ValueError("a moment is an aware datetime")
    return moment.replace(microsecond=0)


def _sized(pem: bytes) -> bytes:
    if len(pem) > PEM_BYTES_MAX:
        raise LocalError(f"a PEM file here has at most {PEM_BYTES_MAX} bytes, this one has {len(pem)}")
    return pem


def _shown(text: str) -> str:
    """Quote an untrusted name for an error message: ASCII, escaped, cut."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")
