"""The CA's files: who may read them, what is refused, what a crash leaves behind."""

from __future__ import annotations

import fcntl
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest
from cryptography import x509

from token_relay.ca import store as certs
from token_relay.ca.mosquitto_conf import mosquitto_conf
from token_relay.host import atomic_files
from token_relay.host import device_key as csr
from token_relay.host.atomic_files import Owner
from token_relay.host.device_key import write_csr
from token_relay.pki import certificates as pki
from token_relay.protocol.errors import ConfigError, LocalError, PolicyError, TransientError
from token_relay.protocol.topics import broker_acl

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
A, B = "a" * 26, "b" * 26


class MakeRequest(Protocol):
    def __call__(self, name: str = A, home: str = "home") -> Path: ...


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def revoked_serials(ca_dir: Path) -> set[int]:
    crl = x509.load_pem_x509_crl((ca_dir / "broker/crl.pem").read_bytes())
    return {entry.serial_number for entry in crl}


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    certs.init(tmp_path / "ca", hosts=("broker.example",), now=NOW)
    return tmp_path / "ca"


@pytest.fixture
def device(tmp_path: Path) -> MakeRequest:
    """Return a function that makes the request of a device in a home of its own."""

    def make(name: str = A, home: str = "home") -> Path:
        (tmp_path / home).mkdir(exist_ok=True)
        return write_csr(tmp_path / home, name).csr

    return make


# -- The device's key --------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_the_device_key_is_0600_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        files = write_csr(tmp_path, A)
    finally:
        os.umask(before)
    assert mode(files.key) == 0o600
    assert mode(files.csr) == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["device.csr", "device.key"]


def test_the_request_holds_the_public_half_of_the_key(tmp_path: Path) -> None:
    files = write_csr(tmp_path, A)
    key = pki.parse_private_key(files.key.read_bytes())
    assert pki.parse_csr(files.csr.read_bytes()) == pki.SigningRequest(A, key.public_key())
    assert b"PRIVATE" not in files.csr.read_bytes()


def test_a_second_request_changes_nothing_without_force(tmp_path: Path) -> None:
    write_csr(tmp_path, A)
    before = tree(tmp_path)
    with pytest.raises(LocalError) as caught:
        write_csr(tmp_path, A)
    assert "--force" in caught.value.hint
    assert tree(tmp_path) == before
    write_csr(tmp_path, A, force=True)
    after = tree(tmp_path)
    assert after["device.key"] != before["device.key"]
    assert pki.parse_csr(after["device.csr"]).public_key == pki.parse_private_key(after["device.key"]).public_key()


def test_a_power_cut_between_key_and_request_is_healed_with_the_same_key(tmp_path: Path) -> None:
    files = write_csr(tmp_path, A)
    key = files.key.read_bytes()
    files.csr.unlink()
    write_csr(tmp_path, A)
    assert files.key.read_bytes() == key
    assert pki.parse_csr(files.csr.read_bytes()).public_key == pki.parse_private_key(key).public_key()


def test_a_power_cut_inside_a_forced_init_never_leaves_a_request_for_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csr(tmp_path, A)
    real = atomic_files.write_atomic

    def power_cut(path: Path, data: bytes, *, mode: int, owner: Owner | None = None, replace: bool = True) -> None:
        if path.name == "device.csr":
            raise KeyboardInterrupt
        real(path, data, mode=mode, owner=owner, replace=replace)

    monkeypatch.setattr(csr, "write_atomic", power_cut)
    with pytest.raises(KeyboardInterrupt):
        write_csr(tmp_path, A, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["device.key"]


def test_a_key_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "device.key"
    target.write_bytes(b"somebody else's")
    with pytest.raises(LocalError, match="not overwritten"):
        atomic_files.write_atomic(target, b"ours", mode=0o600, replace=False)
    assert tree(tmp_path) == {"device.key": b"somebody else's"}


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    atomic_files.write_atomic(target, b"old", mode=0o644)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(LocalError, match="No space left"):
        atomic_files.write_atomic(target, b"new", mode=0o644)
    assert tree(tmp_path) == {"file": b"old"}


def test_a_name_that_is_no_device_id_makes_no_key(tmp_path: Path) -> None:
    with pytest.raises(PolicyError):
        write_csr(tmp_path, "x/in")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_home_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="No such file"):
        write_csr(tmp_path / "nowhere", A)


# -- init --------------------------------------------------------------------------------------------------


def test_init_keeps_private_what_is_private(ca: Path) -> None:
    assert mode(ca / "ca.key") == 0o600
    assert mode(ca / "broker/broker.key") == 0o600
    assert mode(ca / "broker/acl") == 0o600
    assert mode(ca / "broker/data") == 0o700
    assert mode(ca / "broker") & 0o007 == 0
    assert [path for path in ca.rglob("*") if mode(path) & 0o022] == []


def test_init_writes_the_acl_of_the_topics_and_the_configuration(ca: Path) -> None:
    assert (ca / "broker/acl").read_text() == broker_acl()
    assert (ca / "broker/mosquitto.conf").read_text() == mosquitto_conf(ca / "broker")
    assert (ca / "broker/ca.pem").read_bytes() == (ca / "ca.pem").read_bytes()


def test_the_configuration_says_what_the_relay_relies_on() -> None:
    lines = mosquitto_conf(Path("/srv/ca/broker"), port=18883).splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == [
        "listener 18883",
        "cafile /srv/ca/broker/ca.pem",
        "certfile /srv/ca/broker/broker.pem",
        "keyfile /srv/ca/broker/broker.key",
        "tls_version tlsv1.2",
        "require_certificate true",
        "allow_anonymous false",
        "crlfile /srv/ca/broker/crl.pem",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "acl_file /srv/ca/broker/acl",
        "persistence true",
        "persistence_location /srv/ca/broker/data/",
        "autosave_on_changes true",
        "autosave_interval 1",
        "persistent_client_expiration 30d",
        "set_tcp_nodelay true",
        "max_packet_size 20480",
        "max_queued_messages 1000",
        "retain_available false",
    ]


def test_the_example_configuration_is_the_one_that_init_writes() -> None:
    example = Path(__file__).parents[2] / "certs/mosquitto.conf.example"
    assert example.read_text() == mosquitto_conf(Path("/var/lib/token-relay-ca/broker"))


def test_the_certs_directory_of_the_source_tree_holds_no_key() -> None:
    for path in (Path(__file__).parents[2] / "certs").rglob("*"):
        assert not path.is_file() or b"PRIVATE KEY" not in path.read_bytes()


@pytest.mark.parametrize("path", ["relative/ca", "/srv/ca\nallow_anonymous true", "/srv/ca ", "/srv/\x1bca"])
def test_a_path_that_could_change_the_configuration_is_refused(path: str) -> None:
    with pytest.raises(ConfigError):
        mosquitto_conf(Path(path))


def test_a_port_out_of_range_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        certs.init(tmp_path / "ca", port=65536)
    with pytest.raises(PolicyError):
        certs.init(tmp_path / "ca", hosts=("*.example",))
    assert list(tmp_path.iterdir()) == []


def test_a_second_init_changes_nothing_without_force(ca: Path) -> None:
    before = tree(ca)
    with pytest.raises(LocalError) as caught:
        certs.init(ca, now=NOW)
    assert "--force" in caught.value.hint
    assert tree(ca) == before


def test_forced_init_sets_the_old_ca_aside_and_forgets_its_devices(ca: Path, device: MakeRequest) -> None:
    certs.sign(ca, device(), now=NOW)
    old_key, old_index = (ca / "ca.key").read_bytes(), (ca / "index.json").read_bytes()
    made = certs.init(ca, force=True, now=NOW)
    assert certs.list_issued(ca) == ()
    assert made.set_aside is not None
    assert (made.set_aside / "ca.key").read_bytes() == old_key
    assert (made.set_aside / "index.json").read_bytes() == old_index
    assert mode(made.set_aside) == 0o700
    assert (ca / "ca.key").read_bytes() != old_key
    assert not (ca / "broker/broker.pem").exists()
    assert made.broker is None


def test_init_after_a_power_cut_inside_init_just_works(ca: Path) -> None:
    (ca / "index.json").unlink()  # it is written last
    made = certs.init(ca, now=NOW)
    assert made.set_aside is None
    assert certs.list_issued(ca) == ()


def test_commands_on_a_directory_without_ca_are_clear_errors(tmp_path: Path, device: MakeRequest) -> None:
    request = device()
    for command in (
        lambda: certs.sign(tmp_path, request, now=NOW),
        lambda: certs.issue(tmp_path / "none", "broker.example", now=NOW),
        lambda: certs.renew(tmp_path, now=NOW),
        lambda: certs.revoke(tmp_path, A, now=NOW),
        lambda: certs.list_issued(tmp_path),
    ):
        with pytest.raises(LocalError, match="no CA"):
            command()


def test_a_damaged_index_is_a_clear_error_and_stays_as_it_is(ca: Path, device: MakeRequest) -> None:
    request = device()
    for damage in (b"", b"{}garbage", b'{"version": 2}', b'{"version": 1, "surprise": 1}'):
        (ca / "index.json").write_bytes(damage)
        with pytest.raises(LocalError, match="damaged"):
            certs.sign(ca, request, now=NOW)
        assert (ca / "index.json").read_bytes() == damage


def test_a_ca_key_that_others_may_read_is_not_used(ca: Path, device: MakeRequest) -> None:
    (ca / "ca.key").chmod(0o640)
    with pytest.raises(LocalError, match="others may read"):
        certs.sign(ca, device(), now=NOW)


def test_two_commands_do_not_work_at_once(ca: Path, device: MakeRequest) -> None:
    request, before = device(), tree(ca)
    with (ca / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TransientError):
            certs.sign(ca, request, now=NOW)
    assert tree(ca) == before


# -- sign --------------------------------------------------------------------------------------------------


def test_sign_writes_the_certificate_beside_the_request(ca: Path, device: MakeRequest) -> None:
    request = device()
    issued = certs.sign(ca, request, now=NOW)
    assert issued.path == request.with_suffix(".pem")
    certificate = x509.load_pem_x509_certificate(issued.path.read_bytes())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate((ca / "ca.pem").read_bytes()))
    assert issued.entry in certs.list_issued(ca)
    assert (issued.entry.name, issued.entry.kind) == (A, "device")
    assert int(issued.entry.serial, 16) == certificate.serial_number
    assert issued.entry.not_after == NOW + 90 * DAY


def test_the_same_request_renews(ca: Path, device: MakeRequest) -> None:
    request = device()
    first = certs.sign(ca, request, now=NOW)
    second = certs.sign(ca, request, now=NOW + 60 * DAY)
    assert second.path == first.path
    assert second.entry.serial != first.entry.serial
    assert second.entry.not_after == NOW + 150 * DAY


def test_a_certificate_is_in_the_index_before_it_exists(
    ca: Path, device: MakeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    real = atomic_files.write_atomic

    def watch(path: Path, data: bytes, *, mode: int, owner: Owner | None = None, draft_in: Path | None = None) -> None:
        written.append(path.name)
        real(path, data, mode=mode, owner=owner, draft_in=draft_in)

    monkeypatch.setattr(certs, "write_atomic", watch)
    certs.sign(ca, device(), now=NOW)
    assert written == ["index.json", "crl.pem", "device.pem"]
    written.clear()
    certs.issue(ca, "broker.example", now=NOW)
    assert written == ["index.json", "crl.pem", "broker.key", "broker.pem"]


def test_a_name_stays_with_its_key_until_it_is_revoked(ca: Path, device: MakeRequest) -> None:
    first = certs.sign(ca, device(A, "one"), now=NOW)
    stranger = device(A, "two")
    with pytest.raises(PolicyError) as caught:
        certs.sign(ca, stranger, now=NOW + 200 * DAY)  # also when the first has ended long ago
    assert f"revoke {A}" in caught.value.hint
    assert not stranger.with_suffix(".pem").exists()
    certs.revoke(ca, A, now=NOW)
    second = certs.sign(ca, stranger, now=NOW)
    assert revoked_serials(ca) == {int(first.entry.serial, 16)}
    assert second.entry.revoked_at is None


def test_a_revoked_key_never_comes_back(ca: Path, device: MakeRequest) -> None:
    request = device()
    certs.sign(ca, request, now=NOW)
    certs.revoke(ca, A, now=NOW)
    with pytest.raises(PolicyError, match="was revoked"):
        certs.sign(ca, request, now=NOW + DAY)
    certs.sign(ca, device(A, "new key"), now=NOW)
    with pytest.raises(PolicyError, match="was revoked"):
        certs.sign(ca, request, now=NOW + 1000 * DAY)


@pytest.mark.parametrize("content", [b"-----BEGIN PRIVATE KEY-----", b"notes", b""])
def test_a_certificate_overwrites_nothing_but_a_certificate(
    ca: Path, device: MakeRequest, tmp_path: Path, content: bytes
) -> None:
    out = tmp_path / "precious"
    out.write_bytes(content)
    with pytest.raises(LocalError, match="no certificate"):
        certs.sign(ca, device(), out, now=NOW)
    assert out.read_bytes() == content


def test_a_request_that_ends_in_pem_is_not_overwritten(ca: Path, device: MakeRequest) -> None:
    request = device()
    renamed = request.rename(request.with_suffix(".pem"))
    with pytest.raises(LocalError, match="no certificate"):
        certs.sign(ca, renamed, now=NOW)


def test_unreadable_requests_are_clear_errors_and_sign_nothing(ca: Path, tmp_path: Path) -> None:
    before = tree(ca)
    huge = tmp_path / "huge.csr"
    huge.write_bytes(b"x" * 8193)
    for path in (tmp_path / "none.csr", tmp_path, huge, ca / "ca.key"):
        with pytest.raises(LocalError):
            certs.sign(ca, path, now=NOW)
    assert tree(ca) == before


# -- renew, revoke, list -----------------------------------------------------------------------------------


def test_renew_leaves_a_fresh_broker_alone_and_renews_it_in_its_last_30_days(ca: Path) -> None:
    early = certs.renew(ca, now=NOW + 59 * DAY)
    assert early.renewed is None
    assert early.broker is not None
    assert early.broker.not_after == NOW + 90 * DAY
    key = (ca / "broker/broker.key").read_bytes()
    late = certs.renew(ca, now=NOW + 60 * DAY)
    assert late.renewed is not None
    assert late.broker is not None
    assert late.renewed.entry.not_after == NOW + 150 * DAY
    assert late.renewed.entry.hosts == ("broker.example",)
    assert (ca / "broker/broker.key").read_bytes() == key
    certificate = x509.load_pem_x509_certificate((ca / "broker/broker.pem").read_bytes())
    assert certificate.public_key() == pki.parse_private_key(key).public_key()
    assert certificate.serial_number == int(late.broker.serial, 16)


def test_renew_names_the_devices_that_a_person_has_to_renew(ca: Path, device: MakeRequest) -> None:
    certs.sign(ca, device(A, "one"), now=NOW)
    certs.sign(ca, device(B, "two"), now=NOW)
    certs.sign(ca, device("c" * 26, "three"), now=NOW)
    certs.revoke(ca, "c" * 26, now=NOW)
    assert certs.renew(ca, now=NOW + 59 * DAY).due == ()
    certs.sign(ca, (ca.parent / "two/device.csr"), now=NOW + 59 * DAY)
    assert [entry.name for entry in certs.renew(ca, now=NOW + 60 * DAY).due] == [A]
    assert [entry.name for entry in certs.renew(ca, now=NOW + 100 * DAY).due] == [A]  # ended: still to be said


def test_issue_makes_a_new_key_for_exactly_the_hosts_named(ca: Path) -> None:
    key = (ca / "broker/broker.key").read_bytes()
    issued = certs.issue(ca, "Other.example", "192.0.2.7", now=NOW)
    assert issued.entry.hosts == ("other.example", "192.0.2.7")
    assert (ca / "broker/broker.key").read_bytes() != key
    assert mode(ca / "broker/broker.key") == 0o600


def test_a_revoked_broker_is_not_renewed_by_itself(ca: Path) -> None:
    certs.revoke(ca, "broker.example", now=NOW)
    done = certs.renew(ca, now=NOW + 80 * DAY)
    assert (done.renewed, done.broker) == (None, None)


def test_revoke_puts_every_certificate_of_the_name_on_the_list(ca: Path, device: MakeRequest) -> None:
    serials = {int(certs.sign(ca, device_csr, now=NOW).entry.serial, 16) for device_csr in [device()] * 3}
    assert revoked_serials(ca) == set()
    done = certs.revoke(ca, A, now=NOW + DAY)
    assert done.newly == 3
    assert revoked_serials(ca) == serials
    assert {entry.revoked_at for entry in done.entries} == {NOW + DAY}


def test_a_broker_is_revoked_by_any_of_its_hosts(ca: Path) -> None:
    issued = certs.issue(ca, "one.example", "192.0.2.7", now=NOW)
    certs.revoke(ca, "192.0.2.7", now=NOW)
    assert revoked_serials(ca) == {int(issued.entry.serial, 16)}


def test_revoking_again_is_harmless_and_heals_a_list_that_a_crash_left_behind(ca: Path, device: MakeRequest) -> None:
    serial = int(certs.sign(ca, device(), now=NOW).entry.serial, 16)
    stale = (ca / "broker/crl.pem").read_bytes()
    certs.revoke(ca, A, now=NOW)
    (ca / "broker/crl.pem").write_bytes(stale)  # as if the power had failed after the index
    again = certs.revoke(ca, A, now=NOW + DAY)
    assert again.newly == 0
    assert {entry.revoked_at for entry in again.entries} == {NOW}
    assert revoked_serials(ca) == {serial}


def test_the_revocation_list_carries_a_growing_number(ca: Path) -> None:
    def number() -> int:
        crl = x509.load_pem_x509_crl((ca / "broker/crl.pem").read_bytes())
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number

    first = number()
    certs.renew(ca, now=NOW)
    assert number() > first


def test_revoking_an_unknown_name_is_a_clear_error_and_changes_nothing(ca: Path) -> None:
    before = tree(ca)
    with pytest.raises(LocalError, match="no certificate is called"):
        certs.revoke(ca, "x\n" * 500, now=NOW)
    assert tree(ca) == before


def test_the_index_forgets_what_ended_long_ago_but_nothing_revoked_and_no_last_certificate(
    ca: Path, device: MakeRequest
) -> None:
    certs.sign(ca, device(A, "one"), now=NOW)
    certs.revoke(ca, A, now=NOW)
    certs.sign(ca, device(A, "new key"), now=NOW)
    certs.sign(ca, device(B, "two"), now=NOW)
    for month in range(1, 60):
        certs.issue(ca, "broker.example", now=NOW + 30 * month * DAY)
    names = [entry.name for entry in certs.list_issued(ca)]
    assert (names.count(A), names.count(B)) == (2, 1)
    assert names.count("broker.example") <= 5  # 90 days of life and 30 of memory, one a month


def test_a_file_of_one_account_is_never_left_with_another(ca: Path) -> None:
    """When root runs the command, the broker's secrets belong to mosquitto's account, else to the user who ran it."""
    owner = certs._broker_account()
    uid = os.geteuid() if owner is None else owner.uid
    certs.renew(ca, now=NOW + 80 * DAY)
    for name in ("broker.key", "acl", "data"):
        assert (ca / "broker" / name).stat().st_uid == uid
    assert (ca / "ca.key").stat().st_uid == os.geteuid()
