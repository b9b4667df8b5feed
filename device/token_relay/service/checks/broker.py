"""Checks the way to the broker without connecting as the device, which would end the agent's connection.

It checks the device's certificate and key, whether the broker's address answers, whether both sides accept each
other's certificates, and, where the broker runs on this machine, the settings that decide how fast it is and what it
keeps. For a broker elsewhere, the running agent measures the round trip instead.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from token_relay.host.atomic_files import read_bytes
from token_relay.host.config import BrokerConfig
from token_relay.host.peer_certificate import look, names
from token_relay.mqtt.tls import client_context
from token_relay.pki import certificates as pki
from token_relay.protocol.errors import RelayError
from token_relay.provider.http import is_loopback
from token_relay.service.checks.finding import Finding
from token_relay.service.checks.machine import BUILT_AT

CONNECT_S_MAX = 5.0
VERDICT_S = 0.5  # with TLS 1.3 the broker's verdict on our certificate comes after the handshake, by then as a rule
ENDS_SOON = timedelta(days=14)  # of ninety: time enough for a person to visit the device
PEM_BYTES_MAX = 65_536
SYSTEM_CONF = Path("/etc/mosquitto/mosquitto.conf")
INCLUDES_MAX = 64
# What the broker needs, and what happens without it. certs/README.md has the measurements.
SETTINGS = {
    "set_tcp_nodelay": ("true", "a round trip takes 44 ms instead of 1"),
    "persistence": ("true", "a restart of the broker loses what waits for a device"),
    "autosave_on_changes": ("true", "kill -9 of the broker loses what it had acknowledged"),
    "autosave_interval": ("1", "kill -9 of the broker loses what it had acknowledged"),
}
WANTED = {  # missing, or not what it should be
    "ca": "bring ca.pem from the CA's directory",
    "cert": "sign device.csr and bring the certificate: token-relay certs sign device.csr",
    "key": "make a new one: init --force --new-key",
}
SIGN_AGAIN = "sign device.csr again: token-relay certs sign device.csr"
AGAIN = {"cert": SIGN_AGAIN, "ca": "make a new CA: token-relay certs init --force"}


# -- Certificates ------------------------------------------------------------------------------------------


def certificates(broker: BrokerConfig, now_s: float) -> Iterator[Finding]:
    """Judge whether the three files are there, readable, valid now, and belong together.

    Dates are not judged by a clock that was never set; the clock has its own line.
    """
    now = datetime.fromtimestamp(now_s, UTC)
    found: dict[str, x509.Certificate] = {}
    for name, file in (("ca", broker.ca), ("cert", broker.cert)):
        if file is None:
            continue
        try:
            found[name] = pki.parse_certificate(read_bytes(file, size_max=PEM_BYTES_MAX))
        except RelayError as exc:
            yield Finding(f"broker {name}", False, _of_file(exc, file), WANTED[name])
        except OSError as exc:
            yield Finding(f"broker {name}", False, f"{file}: {exc.strerror}", unreadable(exc, file, WANTED[name]))
        else:
            yield dates(f"broker {name}", file, found[name], now, again=AGAIN[name])
    if broker.key is not None:
        yield _key(broker.key, found.get("cert"))


def _of_file(error: RelayError, file: Path) -> str:
    return str(error) if str(file) in str(error) else f"{file}: {error}"


def unreadable(error: OSError, file: Path, missing: str) -> str:
    """Return what to do about a file that cannot be read; ``missing`` where it is not there."""
    return f"make {file} readable to the agent's user" if isinstance(error, PermissionError) else missing


def dates(name: str, file: Path, certificate: x509.Certificate, now: datetime, *, again: str) -> Finding:
    """Judge the dates of a certificate; ``again`` says how to get another one."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now.timestamp() < BUILT_AT:
        return Finding(name, True, f"{file}, {begins:%Y-%m-%d} to {ends:%Y-%m-%d}: not judged by this clock")
    if now < begins:
        return Finding(name, False, f"{file} is valid from {begins:%Y-%m-%d %H:%M}Z", "set the clock of this machine")
    if now > ends:
        return Finding(name, False, f"{file} expired on {ends:%Y-%m-%d %H:%M}Z", again)
    if ends - now < ENDS_SOON:
        return Finding(name, False, f"{file} ends on {ends:%Y-%m-%d}, in {(ends - now).days} days", again)
    return Finding(name, True, f"{file}, until {ends:%Y-%m-%d}")


def _key(file: Path, certificate: x509.Certificate | None) -> Finding:
    try:
        mode = file.stat().st_mode
        key = pki.parse_private_key(read_bytes(file, size_max=PEM_BYTES_MAX))
    except RelayError as exc:
        return Finding("broker key", False, _of_file(exc, file), WANTED["key"])
    except OSError as exc:
        return Finding("broker key", False, f"{file}: {exc.strerror}", unreadable(exc, file, WANTED["key"]))
    if mode & 0o077:
        return Finding("broker key", False, f"{file} is open to others (mode {mode & 0o777:o})", f"chmod 600 {file}")
    certified = None if certificate is None else certificate.public_key()
    if isinstance(certified, ec.EllipticCurvePublicKey) and certified != key.public_key():
        whose = ", ".join(str(name.value) for name in certificate.subject) if certificate is not None else ""
        return Finding(
            "broker key", False, f"{file} is not the key of the certificate, which is of {whose}", SIGN_AGAIN
        )
    return Finding("broker key", True, str(file))


# -- Reachability ------------------------------------------------------------------------------------------


def reach(broker: BrokerConfig, now_s: float) -> Finding:
    """Connect to the broker's port, with TLS where it is used, and leave again without a word of MQTT."""
    place = f"{broker.host}:{broker.port}"
    try:
        began_s = time.monotonic()
        with socket.create_connection((broker.host, broker.port), timeout=CONNECT_S_MAX) as plain:
            took_s = time.monotonic() - began_s
            if broker.use_tls and broker.ca is not None and not os.access(broker.ca, os.R_OK):
                what = f"{place} answers; not tried with TLS without {broker.ca}"
                return Finding("broker", False, what, WANTED["ca"])
            how = _shake_hands(broker, plain) if broker.use_tls else ""
    except OSError as exc:
        return Finding("broker", False, *_failure(exc, place, broker, now_s))
    return Finding("broker", True, f"{place} answers in {took_s * 1000:.0f} ms{how}")


def _failure(error: OSError, place: str, broker: BrokerConfig, now_s: float) -> tuple[str, str]:
    """Return what happened, and what to do."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"{place}: {error.verify_message}", trust_hint(error.verify_message, broker, now_s)
        case ssl.SSLError() if "alert" in str(error).lower():
            return f"{place} refuses this device's certificate", refused_hint(broker)
        case ssl.SSLError():
            hint = "correct the port in broker.url, or write mqtt:// for a broker without TLS"
            return f"{place}: no TLS there ({error.reason or 'closed'})", hint
        case socket.gaierror():
            return f"{broker.host} has no address", "correct the host in broker.url, or bring this machine's DNS up"
        case TimeoutError():
            return f"{place} does not answer", "look at the broker's machine: it is off, or its firewall is closed"
        case _:
            return f"{place}: {error.strerror or error}", "start the broker, or correct broker.url"


def _shake_hands(broker: BrokerConfig, plain: socket.socket) -> str:
    context = client_context(broker.ca)
    is_lacking = False
    if broker.cert is not None and broker.key is not None:
        try:
            context.load_cert_chain(broker.cert, broker.key, password=b"")
        except OSError:  # missing or wrong files have their own lines
            is_lacking = True
    with context.wrap_socket(plain, server_hostname=broker.host) as sock:
        if is_lacking:
            return f", {sock.version()}; not tried with this device's certificate"
        sock.settimeout(VERDICT_S)
        try:
            if sock.recv(1) == b"":
                raise ssl.SSLError(0, "alert: closed after the handshake")
        except TimeoutError:
            pass  # it waits for our CONNECT, so it accepted our certificate
        return f", {sock.version()}"


def trust_hint(message: str, broker: BrokerConfig, now_s: float) -> str:
    """Return what to do about a broker's certificate that OpenSSL refuses in these words. Blocks: it may ask again."""
    words = message.lower()
    for needle, lacking, how in STRICT:
        if needle in words:
            return f"{lacking}, which Python 3.13 checks: {how}"
    if ("expired" in words or "not yet valid" in words) and now_s < BUILT_AT:
        return "set the clock of this machine"
    shown = look(broker.host, broker.port, broker.host)
    if "not yet valid" in words:
        begins = f"begins on {shown.not_valid_before_utc:%Y-%m-%d %H:%M}Z: " if shown is not None else ""
        return f"{begins}set the clock of this machine"
    if "expired" in words:
        ended = f"ended on {shown.not_valid_after_utc:%Y-%m-%d %H:%M}Z: " if shown is not None else ""
        return f"{ended}`token-relay certs renew` on the CA's machine"
    if "match" in words and shown is not None and broker.host in names(shown):
        return "it has another certificate by now, with this name: the agent tries again by itself, once a minute"
    if "match" in words:
        named = f"is for {', '.join(names(shown)) or 'no name'}: " if shown is not None else ""
        return f"the broker's certificate {named}`token-relay certs issue {broker.host}` on the CA's machine"
    return "its certificate is of another CA: bring that CA's ca.pem"


def refused_hint(broker: BrokerConfig) -> str:
    """Return what to do about a certificate of this device that the broker refuses. Blocks: it reads two files."""
    with contextlib.suppress(RelayError, OSError):
        if broker.ca is not None and broker.cert is not None:
            files = (broker.ca, broker.cert)
            authority, own = (pki.parse_certificate(read_bytes(file, size_max=PEM_BYTES_MAX)) for file in files)
            try:
                own.verify_directly_issued_by(authority)
            except (InvalidSignature, ValueError, TypeError):
                return f"{broker.cert} is of another CA than {broker.ca}: sign device.csr with the broker's CA"
    return "revoked, or the broker trusts another CA: `token-relay certs list` on the CA's machine says"


_NEW_CA = (
    'make a CA that has it: `token-relay certs init`, or openssl req -x509 -addext "basicConstraints=critical,CA:TRUE" '
    '-addext "keyUsage=critical,keyCertSign,cRLSign" -addext "subjectKeyIdentifier=hash"'
)
_SIGN_ANEW = (
    "sign it anew: `token-relay certs issue HOST`, or openssl x509 -req with authorityKeyIdentifier=keyid in -extfile"
)
# The texts of OpenSSL's strict check (X509_V_FLAG_X509_STRICT, RFC 5280 §4.2.1); Python sets the flag since 3.13.
STRICT = (
    ("authority key identifier", "the broker's certificate lacks its authority key identifier", _SIGN_ANEW),
    ("subject key identifier", "the CA lacks its subject key identifier", _NEW_CA),
    ("key usage", "the CA lacks the extension key usage with certificate signing", _NEW_CA),
    ("basic constraints", "the CA lacks critical basic constraints", _NEW_CA),
    ("invalid ca", "the CA lacks basic constraints, or key usage with certificate signing", _NEW_CA),
)


# -- Settings ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Conf:
    """A mosquitto.conf with the files that it includes: the last value of each setting, and all ports."""

    path: Path
    values: Mapping[str, str]
    ports: frozenset[int]


def settings(broker: BrokerConfig, confs: Sequence[Path]) -> Finding:
    """Judge the configuration of a mosquitto on this machine; for one elsewhere, say what to look at."""
    name = "broker settings"
    if not is_loopback(broker.host):
        return Finding(name, True, "the broker is on another machine; the round trip says whether it is fast")
    for path in confs:
        try:
            conf = read_conf(path)
        except OSError:
            continue
        if broker.port in conf.ports:
            return judge(conf)
    return Finding(name, True, "no mosquitto.conf here names this port")


def judge(conf: Conf) -> Finding:
    """Judge one configuration."""
    missing = {key: why for key, (value, why) in SETTINGS.items() if conf.values.get(key) != value}
    if missing:
        lines = "; ".join(f"{key} {SETTINGS[key][0]}" for key in missing)
        why = next(iter(missing.values()))
        return Finding("broker settings", False, f"{conf.path}: {why}", f"add: {lines}; then restart mosquitto")
    return Finding("broker settings", True, f"{conf.path}: set_tcp_nodelay, persistence and autosave are on")


def read_conf(path: Path) -> Conf:
    """Read a mosquitto.conf and what it includes. Raises OSError. mosquitto.conf(5)"""
    values: dict[str, str] = {}
    ports: set[int] = set()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        match = re.fullmatch(r"\s*([a-z_]+)\s+(.*?)\s*", line)
        if match is None:
            continue
        key, value = match.groups()
        if key == "include_dir":
            for file in sorted(Path(value).glob("*.conf"))[:INCLUDES_MAX]:
                inner = read_conf(file)
                values |= inner.values
                ports |= inner.ports
        elif key in ("listener", "port") and (number := value.split()[0]).isdigit():
            ports.add(int(number))
        else:
            values[key] = value
    return Conf(path, values, frozenset(ports))


def confs_here(proc: Path = Path("/proc"), system: Path = SYSTEM_CONF) -> list[Path]:
    """Return the configurations of the mosquitto processes that run here, and the distribution's own."""
    found: list[Path] = []
    for cmdline in proc.glob("[0-9]*/cmdline"):
        try:
            words = cmdline.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if Path(words[0]).name == "mosquitto" and "-c" in words[:-1]:
            found.append(Path(words[words.index("-c") + 1]))
    return [*found, system]
