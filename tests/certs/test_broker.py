"""The files of ``certs init`` in a real mosquitto: who gets in, and who may read and write what.

A refusal is checked by its reason (the TLS alert, RFC 8446 §6, or the MQTT reason code), so that a test cannot pass
because something else was broken. "Does not receive" is checked with a marker: the broker works through its input in
order, so a message sent after the forbidden one and received first proves that the forbidden one was kept back.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.certs.broker_kit import Broker, Client, Device, enrol, free_port, knock, reachable_directory, running
from tests.watchdog import HANG_S
from token_relay.ca import store as certs
from token_relay.pki import certificates as pki
from token_relay.protocol.errors import PolicyError

A, B, C, D, E, OLD = (letter * 26 for letter in "abcdef")
MAILBOX = "relay/v1/pair/" + "0f" * 16
NOT_AUTHORIZED = 0x87  # MQTT 5 §2.4
NO_SUBSCRIBERS = 0x10
TAKEN = {0x00, NO_SUBSCRIBERS}


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that mosquitto's own account can reach (pytest's are 0700)."""
    base = Path(tempfile.mkdtemp(prefix="relay-certs-"))
    base.chmod(0o755)
    yield base
    shutil.rmtree(base)


@pytest.fixture(scope="module")
def ca(place: Path) -> certs.Initialised:
    port = free_port()
    long_ago = datetime.now(UTC) - timedelta(days=200)
    made = certs.init(place / "ca", hosts=("localhost", "127.0.0.1"), port=port, now=long_ago)
    certs.renew(place / "ca")
    return made


@pytest.fixture(scope="module")
def devices(place: Path, ca: certs.Initialised) -> dict[str, Device]:
    return {name: enrol(place / "ca", place / name, name) for name in (A, B, C, D, E)}


def port_of(made: certs.Initialised) -> int:
    [line] = [line for line in made.conf.read_text().splitlines() if line.startswith("listener ")]
    return int(line.split()[1])


@pytest.fixture(scope="module")
def broker(ca: certs.Initialised, devices: dict[str, Device]) -> Iterator[Broker]:
    with running(ca.conf, port_of(ca)) as started:
        yield started


def raw_certificate(place: Path, common_name: str, *, ca_dir: Path | None = None, home: str) -> Device:
    """A client certificate made past all checks of ours, by our CA's own key or by a stranger's."""
    directory = reachable_directory(place / home)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    if ca_dir is None:
        authority = pki.make_authority(ec.generate_private_key(ec.SECP256R1()), serial=1, now=now)
    else:
        authority = pki.parse_authority(
            certificate_pem=(ca_dir / "ca.pem").read_bytes(), private_key_pem=(ca_dir / "ca.key").read_bytes()
        )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(authority.private_key, hashes.SHA256())
    )
    (directory / "raw.key").write_bytes(pki.private_key_pem(key))
    (directory / "raw.pem").write_bytes(pki.certificate_pem(certificate))
    return Device(common_name, directory / "raw.key", directory / "raw.pem", place / "ca/ca.pem")


# -- Start -------------------------------------------------------------------------------------------------


def test_mosquitto_runs_on_exactly_the_files_that_init_wrote(broker: Broker, devices: dict[str, Device]) -> None:
    assert knock(broker.port, devices[A].tls()).said == "connack 0"


def test_mosquitto_started_by_root_works_under_its_own_account(broker: Broker) -> None:
    account = "mosquitto" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    status = Path(f"/proc/{broker.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("Uid:")]
    assert {int(uid) for uid in line.split()[1:]} == {pwd.getpwnam(account).pw_uid}


# -- Who gets in -------------------------------------------------------------------------------------------


def test_without_a_certificate_nobody_gets_in(broker: Broker, devices: dict[str, Device]) -> None:
    anonymous = ssl.create_default_context(cafile=str(devices[A].ca))
    assert knock(broker.port, anonymous).said == "TLSV13_ALERT_CERTIFICATE_REQUIRED"


def test_a_certificate_of_another_ca_does_not_get_in(broker: Broker, place: Path) -> None:
    stranger = raw_certificate(place, A, home="stranger")
    assert knock(broker.port, stranger.tls()).said == "TLSV1_ALERT_UNKNOWN_CA"


def test_an_expired_certificate_does_not_get_in(broker: Broker, place: Path, ca: certs.Initialised) -> None:
    old = enrol(place / "ca", place / OLD, OLD, now=datetime.now(UTC) - timedelta(days=91))
    assert knock(broker.port, old.tls()).said == "SSLV3_ALERT_CERTIFICATE_EXPIRED"


def test_the_brokers_own_certificate_does_not_serve_as_a_devices(
    broker: Broker, place: Path, ca: certs.Initialised
) -> None:
    server = Device("broker", place / "ca/broker/broker.key", place / "ca/broker/broker.pem", place / "ca/ca.pem")
    assert knock(broker.port, server.tls()).said == "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE"


def test_a_device_does_not_serve_as_the_broker(devices: dict[str, Device], place: Path) -> None:
    """A stolen device key must not be enough to play the broker towards other devices."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(devices[A].certificate, devices[A].key)
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    at_server = server.wrap_bio(ours, theirs, server_side=True)
    at_client = devices[B].tls().wrap_bio(theirs, ours, server_hostname="localhost")
    for end in (at_client, at_server):
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()
    with pytest.raises(ssl.SSLCertVerificationError, match="unsuitable certificate purpose"):
        at_client.do_handshake()


def test_a_device_does_not_talk_to_a_broker_of_another_name(broker: Broker, devices: dict[str, Device]) -> None:
    context = devices[A].tls()
    with (
        socket.create_connection(("127.0.0.1", broker.port), timeout=HANG_S) as plain,
        pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"),
    ):
        context.wrap_socket(plain, server_hostname="other.example")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(broker: Broker, devices: dict[str, Device], version: ssl.TLSVersion) -> None:
    context = devices[A].tls()
    context.minimum_version = context.maximum_version = version
    assert knock(broker.port, context).said == "connack 0"


def test_tls_1_1_is_not_spoken(broker: Broker, devices: dict[str, Device]) -> None:
    context = devices[A].tls()
    context.set_ciphers("ALL:@SECLEVEL=0")  # or OpenSSL would refuse on our own side
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    assert knock(broker.port, context).said == "TLSV1_ALERT_PROTOCOL_VERSION"


def test_mosquittos_own_clients_work_with_the_same_files(broker: Broker, devices: dict[str, Device]) -> None:
    def command(program: str, device: Device, *options: str) -> list[str]:
        files = ["--cafile", str(device.ca), "--cert", str(device.certificate), "--key", str(device.key)]
        return [program, "-h", "localhost", "-p", str(broker.port), "-q", "1", "-i", device.name, *files, *options]

    topic = f"relay/v1/{E}/from/{D}"
    subscribe = ["-t", f"relay/v1/{E}/from/+", "-c"]
    # First make the session, then send, then fetch: no subscriber has to be waited for.
    subprocess.run(command("mosquitto_sub", devices[E], *subscribe, "-E"), check=True, timeout=HANG_S)
    subprocess.run(command("mosquitto_pub", devices[D], "-t", topic, "-m", "hello"), check=True, timeout=HANG_S)
    fetch = command("mosquitto_sub", devices[E], *subscribe, "-C", "1")
    got = subprocess.run(fetch, check=True, timeout=HANG_S, capture_output=True, text=True)
    assert got.stdout == "hello\n"


# -- Who may do what ---------------------------------------------------------------------------------------


def test_a_device_writes_under_its_own_name_only(broker: Broker, devices: dict[str, Device]) -> None:
    with Client(devices[A], broker.port) as client:
        assert client.publish(f"relay/v1/{B}/from/{A}", b"") in TAKEN
        assert client.publish(f"relay/v1/{A}/from/{A}", b"") in TAKEN  # the probe of one's own connection
        for forbidden in (
            f"relay/v1/{B}/from/{C}",
            f"relay/v1/{A}/from/{B}",
            f"relay/v1/{A}/from",
            f"relay/v1/{B}/from/{A}/x",
            f"relay/v1/{B}/x/from/{A}",
            f"relay/v2/{B}/from/{A}",
            "relay/v1/pair",
            f"{MAILBOX}/x",
            "anything",
            "$SYS/broker/uptime",
            "$CONTROL/dynamic-security/v1",
        ):
            assert client.publish(forbidden, b"") == NOT_AUTHORIZED, forbidden


def test_a_device_reads_what_is_addressed_to_it_and_nothing_else(broker: Broker, devices: dict[str, Device]) -> None:
    with Client(devices[A], broker.port) as reader, Client(devices[C], broker.port) as writer:
        for topic_filter in ("#", "+/#", f"relay/v1/{B}/from/+", f"relay/v1/{B}/#", f"relay/v1/+/from/{C}", "$SYS/#"):
            reader.subscribe(topic_filter)  # the broker grants any filter; what counts is what it delivers
        assert writer.publish(f"relay/v1/{B}/from/{C}", b"for B") in TAKEN
        assert writer.publish(f"relay/v1/{A}/from/{C}", b"for A") in TAKEN
        assert reader.next_message() == (f"relay/v1/{A}/from/{C}", b"for A")


def test_a_device_does_not_read_what_it_wrote_to_another(broker: Broker, devices: dict[str, Device]) -> None:
    with Client(devices[A], broker.port) as client:
        client.subscribe("#")
        client.publish(f"relay/v1/{B}/from/{A}", b"to B")
        client.publish(f"relay/v1/{A}/from/{A}", b"marker")
        assert client.next_message() == (f"relay/v1/{A}/from/{A}", b"marker")


def test_every_enrolled_device_uses_the_pairing_mailboxes(broker: Broker, devices: dict[str, Device]) -> None:
    with Client(devices[A], broker.port) as one, Client(devices[B], broker.port) as other:
        for reader, writer in ((one, other), (other, one)):
            assert reader.subscribe(MAILBOX) == 1
            assert writer.publish(MAILBOX, b"PAIR") in TAKEN
            assert reader.next_message() == (MAILBOX, b"PAIR")


def test_no_device_takes_the_session_of_another_by_its_client_id(broker: Broker, devices: dict[str, Device]) -> None:
    """mosquitto alone lets any user take any client id, and with it what waits there."""
    inbox = f"relay/v1/{B}/from/+"
    with Client(devices[B], broker.port, session_expiry_s=300) as owner:
        owner.subscribe(inbox)
    with Client(devices[C], broker.port) as sender:
        sender.publish(f"relay/v1/{B}/from/{C}", b"waiting")
    with Client(devices[A], broker.port, client_id=B, session_expiry_s=300) as thief:
        assert thief.flags.session_present is False
    with Client(devices[B], broker.port) as owner:
        assert owner.flags.session_present is True
        assert owner.next_message() == (f"relay/v1/{B}/from/{C}", b"waiting")


def test_nothing_is_retained(broker: Broker, devices: dict[str, Device]) -> None:
    with Client(devices[A], broker.port) as client:
        client.paho.publish(f"relay/v1/{A}/from/{A}", b"", qos=1, retain=True)
        assert client.next_disconnect() == 0x9A  # Retain not supported, MQTT 5 §3.14.2.1


# -- Revocation --------------------------------------------------------------------------------------------


def test_a_revoked_device_is_refused_after_a_reload_and_keeps_only_what_it_has(place: Path) -> None:
    """Also with a TLS session that it kept from before, and in both versions: resuming is no way round the list."""
    port = free_port()
    made = certs.init(place / "revoking", hosts=("localhost",), port=port)
    lost, kept = (enrol(place / "revoking", place / f"revoking-{name}", name) for name in (A, B))
    with running(made.conf, port) as broker:
        sessions = [resumable(port, lost, version) for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)]
        for context, session in sessions:  # without a revocation both can be resumed
            assert (knock(port, context, session).said, knock(port, context, session).is_resumed) == ("connack 0", True)
        sessions = [resumable(port, lost, version) for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)]
        certs.revoke(place / "revoking", A)
        assert knock(port, lost.tls()).said == "connack 0"  # the broker has not looked yet
        with Client(lost, port) as connected:
            broker.reload()
            assert knock(port, lost.tls()).said == "SSLV3_ALERT_CERTIFICATE_REVOKED"
            assert knock(port, kept.tls()).said == "connack 0"
            for context, session in sessions:
                assert knock(port, context, session).said == "SSLV3_ALERT_CERTIFICATE_REVOKED"
            # The limit that mosquitto.conf tells of: a connection that is open stays open until a restart.
            assert connected.publish(f"relay/v1/{B}/from/{A}", b"still here") in TAKEN
    with running(made.conf, port):
        assert knock(port, lost.tls()).said == "SSLV3_ALERT_CERTIFICATE_REVOKED"
        assert knock(port, kept.tls()).said == "connack 0"


def resumable(port: int, device: Device, version: ssl.TLSVersion) -> tuple[ssl.SSLContext, ssl.SSLSession]:
    context = device.tls()
    context.minimum_version = context.maximum_version = version
    first = knock(port, context)
    assert first.said == "connack 0"
    assert first.session is not None
    return context, first.session


# -- What survives -----------------------------------------------------------------------------------------


def test_a_waiting_message_survives_kill_9_once_the_broker_has_answered_something_later(place: Path) -> None:
    """The store is written after the acknowledgement, in the same turn of the broker's loop."""
    port = free_port()
    made = certs.init(place / "killed", hosts=("localhost",), port=port)
    sender, receiver = (enrol(place / "killed", place / f"killed-{name}", name) for name in (A, B))
    with running(made.conf, port) as broker:
        with Client(receiver, port, session_expiry_s=300) as client:
            client.subscribe(f"relay/v1/{B}/from/+")
        with Client(sender, port) as client:
            assert client.publish(f"relay/v1/{B}/from/{A}", b"first") == 0
            client.subscribe(MAILBOX)
            broker.process.kill()
            broker.process.wait(HANG_S)
    with running(made.conf, port), Client(receiver, port) as client:
        assert client.flags.session_present is True
        assert client.next_message() == (f"relay/v1/{B}/from/{A}", b"first")


# -- Why the CA is strict about names ------------------------------------------------------------------------


def test_a_name_with_a_slash_would_reach_into_the_topics_of_another_device(
    place: Path, ca: certs.Initialised, devices: dict[str, Device]
) -> None:
    """mosquitto pastes the name into its patterns as it is. This certificate was made past the CA's checks.

    With our access list, whose patterns have a fixed number of levels, such a name reaches only deeper topics below
    another device's, which the relay does not use. One pattern that ends in ``#`` and it reads the inbox itself. So
    we rely on the names, and the fixed levels are the second lock.
    """
    evil_name = f"{B}/from"
    with pytest.raises(PolicyError):
        pki.check_device_name(evil_name)
    evil = raw_certificate(place, evil_name, ca_dir=place / "ca", home="slash")
    wide = reachable_directory(place / "wide")
    acl = wide / "acl"
    acl.write_text("pattern read relay/v1/%u/#\npattern write relay/v1/+/from/%u\n")
    conf = wide / "mosquitto.conf"
    (wide / "data").mkdir()
    port = free_port()
    text = ca.conf.read_text().replace(str(ca.acl), str(acl)).replace(f"listener {port_of(ca)}", f"listener {port}")
    conf.write_text(text.replace(str(ca.conf.parent / "data"), str(wide / "data")))
    if os.geteuid() == 0:
        owner = pwd.getpwnam("mosquitto")
        os.chown(wide / "data", owner.pw_uid, owner.pw_gid)
    with running(conf, port), Client(devices[C], port) as writer, Client(evil, port, client_id="evil") as thief:
        thief.subscribe(f"relay/v1/{B}/from/+")
        writer.publish(f"relay/v1/{B}/from/{C}", b"for B only")
        assert thief.next_message() == (f"relay/v1/{B}/from/{C}", b"for B only")


def test_with_our_access_list_a_slash_reaches_only_topics_that_the_relay_does_not_use(
    broker: Broker, place: Path, ca: certs.Initialised, devices: dict[str, Device]
) -> None:
    evil = raw_certificate(place, f"{B}/from/{A}", ca_dir=place / "ca", home="deeper")
    with Client(evil, broker.port, client_id="evil") as thief, Client(devices[C], broker.port) as writer:
        thief.subscribe("relay/v1/#")
        assert writer.publish(f"relay/v1/{B}/from/{C}", b"for B") in TAKEN
        assert writer.publish(f"relay/v1/{B}/from/{A}/from/{C}", b"") == NOT_AUTHORIZED
        assert thief.publish(f"relay/v1/{C}/from/{B}", b"") == NOT_AUTHORIZED
        assert thief.publish(f"relay/v1/{C}/from/{B}/from/{A}", b"under another's name") in TAKEN  # the reach
        assert writer.publish(MAILBOX, b"marker") in TAKEN
        assert thief.next_message() == (MAILBOX, b"marker")


@pytest.mark.parametrize("wildcard", ["+", "#"])
def test_a_name_that_is_a_wildcard_is_kept_from_everything_by_mosquitto_too(
    broker: Broker, place: Path, ca: certs.Initialised, devices: dict[str, Device], wildcard: str
) -> None:
    evil = raw_certificate(place, wildcard, ca_dir=place / "ca", home=f"wildcard-{ord(wildcard)}")
    with Client(evil, broker.port, client_id="evil") as thief:
        thief.subscribe("#")
        with Client(devices[C], broker.port) as writer:
            assert writer.publish(f"relay/v1/{B}/from/{C}", b"for B") in TAKEN
            assert writer.publish(MAILBOX, b"marker") in TAKEN
        assert thief.publish(f"relay/v1/{B}/from/{C}", b"") == NOT_AUTHORIZED
        assert thief.messages.empty()  # the answers above came after whatever it would have been sent
