"""The CA on disk, which ``token-relay certs`` uses.

A CA directory::

    ca.key  ca.pem  index.json  lock     the CA; ca.key is 0600 and never leaves this machine
    broker/                              all that mosquitto reads, and nothing else; may be copied to another machine
        mosquitto.conf  acl  ca.pem  crl.pem  broker.pem  broker.key  data/

:mod:`token_relay.pki.certificates` decides; this module has the files, the clock and randomness. Invariants:

- **indexed before it exists**: a certificate's serial is durable in ``index.json`` before the certificate is
  written, so every certificate that was ever handed out can be revoked.
- **the list follows the index**: every command that changes something ends by writing ``crl.pem`` anew from the index,
  so the next command (or the same one again) repairs a crash between the two.
- **a name stays with its key**: a device id that has a live certificate is not signed for another key, and a revoked
  key is never signed again. The device id does not follow from *this* key, so the first signature trusts the request:
  compare the id with the device's own screen before signing.
- one command at a time (``flock``), each file whole or absent (:func:`token_relay.host.atomic_files.write_atomic`);
  no draft of a private key ever lies in ``broker/``.
- the directories are ours or root's, and nobody else may write to them; ``broker`` is no link.

Run as root, it gives the secret files that mosquitto reads to mosquitto's account, since mosquitto started by root
changes to that account before it opens them. The account can write ``data/`` only.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from token_relay.ca import mosquitto_conf as broker_files
from token_relay.host.atomic_files import Owner, make_directory, read_bytes, remove_drafts, unlink, write_atomic
from token_relay.pki import certificates as pki
from token_relay.protocol.errors import LocalError, PolicyError, TransientError, VaultError
from token_relay.protocol.topics import broker_acl
from token_relay.vault.files import check_directory, sync_directory

CA_CERTIFICATE, CA_KEY, INDEX, LOCK, BROKER = "ca.pem", "ca.key", "index.json", "lock", "broker"
BROKER_ACCOUNT = "mosquitto"
INDEX_BYTES_MAX = 8 * 1024 * 1024
ENTRIES_MAX = 10_000  # about 4 MB of index: two thousand devices, each renewed five times; this is a household's CA

RELOAD_HINT = "copy broker/ if the broker runs elsewhere, and restart mosquitto"

Kind = Literal["device", "broker"]


class Entry(BaseModel):
    """One certificate that the CA has signed; ``name`` is a device id, or the first of the broker's ``hosts``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    name: str = Field(max_length=253)
    kind: Kind
    hosts: tuple[str, ...] = Field(default=(), max_length=pki.HOSTS_MAX)
    serial: str = Field(pattern=r"^[0-9a-f]{1,40}$")
    key_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    not_before: AwareDatetime
    not_after: AwareDatetime
    revoked_at: AwareDatetime | None = None

    def is_called(self, name: str) -> bool:
        """Whether the certificate is named ``name``, or is valid for this host."""
        return name == self.name or name in self.hosts


class _Index(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    version: Literal[1] = 1
    crl_number: int = Field(default=0, ge=0)
    entries: tuple[Entry, ...] = Field(default=(), max_length=ENTRIES_MAX)


# -- Results -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Issued:
    """A new certificate: its line in the index and where it lies."""

    entry: Entry
    path: Path


@dataclass(frozen=True, slots=True)
class Initialised:
    """A new CA. ``set_aside`` is where ``force`` put the former one; ``broker`` is None when no host was named."""

    ca_certificate: Path
    fingerprint: str
    conf: Path
    acl: Path
    broker: Issued | None
    set_aside: Path | None


@dataclass(frozen=True, slots=True)
class Renewed:
    """What ``renew`` did and what is left to a person.

    ``renewed`` is the broker's new certificate, None when the present one has more than ``RENEW_BEFORE`` left;
    ``broker`` is the broker's present line, None when it has none or it is revoked: ``issue`` one. ``due`` are the
    devices whose certificate has ended or ends soon: sign their ``device.csr`` again.
    """

    renewed: Issued | None
    broker: Entry | None
    due: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class RevokedCertificates:
    """All certificates of this name are on the list now. ``newly`` is 0 when they were on it before."""

    name: str
    entries: tuple[Entry, ...]
    newly: int
    crl: Path


# -- Commands ----------------------------------------------------------------------------------------------


def init(
    ca_dir: Path,
    *,
    hosts: tuple[str, ...] = (),
    port: int = broker_files.MQTTS_PORT,
    force: bool = False,
    now: datetime | None = None,
) -> Initialised:
    """Make a CA and the broker's complete configuration; with ``hosts`` the broker's certificate too.

    With ``force`` an existing CA is set aside in a directory of its own: from then on every device needs a new
    certificate and the new ``ca.pem``.

    Raises:
        LocalError: there is a CA already (without ``force``), or the disk refused.
        PolicyError, ConfigError: a host, the port or the path is not usable; nothing was written.
    """
    now, ca_dir = _moment(now), ca_dir.absolute()
    checked_hosts = pki.check_hosts(hosts) if hosts else ()
    broker_dir = ca_dir / BROKER
    conf = broker_files.mosquitto_conf(broker_dir, port=port)
    account = _broker_account()
    make_directory(ca_dir, mode=0o755)
    with _locked(ca_dir):
        set_aside = None
        if (ca_dir / INDEX).exists():
            if not force:
                raise LocalError(f"{ca_dir} holds a CA", hint="--force replaces it; every device then needs a new one")
            set_aside = _set_aside(ca_dir)
        authority = pki.make_authority(_new_key(), serial=_new_serial(), now=now)
        write_atomic(ca_dir / CA_KEY, pki.private_key_pem(authority.private_key), mode=0o600)
        ca_pem = pki.certificate_pem(authority.certificate)
        write_atomic(ca_dir / CA_CERTIFICATE, ca_pem, mode=0o644)

        group = None if account is None else Owner(0, account.gid)
        make_directory(broker_dir, mode=0o700 if account is None else 0o750, owner=group)
        make_directory(broker_dir / broker_files.DATA_NAME, mode=0o700, owner=account)
        for name in (broker_files.CERTIFICATE_NAME, broker_files.KEY_NAME):
            unlink(broker_dir / name)  # of a former CA: a broker that shows it would only confuse people
        write_atomic(broker_dir / broker_files.CONF_NAME, conf.encode(), mode=0o644)
        write_atomic(broker_dir / broker_files.ACL_NAME, broker_acl().encode(), mode=0o600, owner=account)
        write_atomic(broker_dir / broker_files.CA_NAME, ca_pem, mode=0o644)
        index = _commit(ca_dir, authority, _Index(), now)  # last: from here on the directory is a CA
        broker = _issue(ca_dir, authority, index, checked_hosts, key=_new_key(), now=now) if checked_hosts else None
    return Initialised(
        ca_certificate=ca_dir / CA_CERTIFICATE,
        fingerprint=pki.key_fingerprint(authority.private_key.public_key()),
        conf=broker_dir / broker_files.CONF_NAME,
        acl=broker_dir / broker_files.ACL_NAME,
        broker=broker,
        set_aside=set_aside,
    )


def sign(ca_dir: Path, csr_path: Path, out: Path | None = None, *, now: datetime | None = None) -> Issued:
    """Sign a device's request, the first time or to renew, and write the certificate to ``out``.

    ``out`` is by default the request's path with the suffix ``.pem``. A certificate there is replaced, any other
    file is not. The device needs that file and ``ca.pem``.

    Raises:
        LocalError: the request, the CA or ``out`` is not usable.
        PolicyError: the name, the key, or their pairing is not allowed; the hint says what to do.
        TransientError: another ``certs`` command is running.
    """
    now, ca_dir = _moment(now), ca_dir.absolute()
    request = pki.parse_csr(read_bytes(csr_path, size_max=pki.CSR_BYTES_MAX))
    out = _checked_out(csr_path.with_suffix(".pem") if out is None else out)
    with _locked(ca_dir):
        authority, index = _load(ca_dir)
        key_sha256 = pki.key_fingerprint(request.public_key)
        for entry in index.entries:
            if entry.name != request.device_id:
                continue
            if entry.revoked_at is not None and entry.key_sha256 == key_sha256:
                raise PolicyError(
                    f"the key of {entry.name} was revoked at {entry.revoked_at:%Y-%m-%d %H:%M}Z",
                    hint="make a new key on the device (init --force --new-key) and sign that request",
                )
            if entry.revoked_at is None and entry.key_sha256 != key_sha256:
                raise PolicyError(
                    f"{entry.name} has a certificate for another key",
                    hint=f"if the key is really new: token-relay certs revoke {entry.name} --dir {ca_dir}, then sign",
                )
        certificate = pki.sign_device(authority, request, serial=_new_serial(), now=now)
        entry = _entry(certificate, request.device_id, "device", (), key_sha256)
        _commit(ca_dir, authority, _added(index, entry, now), now)
        write_atomic(out, pki.certificate_pem(certificate), mode=0o644)
    return Issued(entry, out)


def issue(ca_dir: Path, *hosts: str, now: datetime | None = None) -> Issued:
    """Make a new key and certificate for the broker, valid for exactly these host names and IP addresses.

    They replace the broker's present ones. The key is written first; a crash in between leaves a pair that does not
    match, with which mosquitto refuses to start: issue again.

    Raises:
        LocalError: the CA is not usable or the disk refused.
        PolicyError: a host is not allowed; nothing was written.
        TransientError: another ``certs`` command is running.
    """
    now, ca_dir = _moment(now), ca_dir.absolute()
    checked = pki.check_hosts(hosts)
    with _locked(ca_dir):
        authority, index = _load(ca_dir)
        return _issue(ca_dir, authority, index, checked, key=_new_key(), now=now)


def renew(ca_dir: Path, *, now: datetime | None = None) -> Renewed:
    """Renew the broker's certificate, with its key, when it ends within ``RENEW_BEFORE``; name the devices due.

    A timer may run it: it does nothing when nothing is due, except that it writes the revocation list anew.

    Raises:
        LocalError: the CA or the broker's key is not usable, or the disk refused.
        TransientError: another ``certs`` command is running.
    """
    now, ca_dir = _moment(now), ca_dir.absolute()
    with _locked(ca_dir):
        authority, index = _load(ca_dir)
        due = tuple(
            entry
            for entry in _newest(index)
            if entry.kind == "device" and entry.revoked_at is None and entry.not_after - now <= pki.RENEW_BEFORE
        )
        brokers = [entry for entry in index.entries if entry.kind == "broker"]
        broker = brokers[-1] if brokers and brokers[-1].revoked_at is None else None
        renewed = None
        if broker is not None and broker.not_after - now <= pki.RENEW_BEFORE:
            key_file = ca_dir / BROKER / broker_files.KEY_NAME
            key = pki.parse_private_key(read_bytes(key_file, size_max=pki.PEM_BYTES_MAX))
            renewed = _issue(ca_dir, authority, index, broker.hosts, key=key, now=now)
            broker = renewed.entry
        else:
            _commit(ca_dir, authority, index, now)
    return Renewed(renewed, broker, due)


def revoke(ca_dir: Path, name: str, *, now: datetime | None = None) -> RevokedCertificates:
    """Put every certificate of a device id, or of a broker's host, on the revocation list. Repeating it is harmless.

    The broker learns of it at its next SIGHUP, and ends connections that are open only at a restart. For a
    *broker's* certificate the list has no reader (devices do not fetch it): issue a new one, and where its key was
    stolen, wait out its 90 days or make a new CA.

    Raises:
        LocalError: no certificate has this name, or the disk refused.
        TransientError: another ``certs`` command is running.
    """
    now, ca_dir = _moment(now), ca_dir.absolute()
    with _locked(ca_dir):
        authority, index = _load(ca_dir)
        if not any(entry.is_called(name) for entry in index.entries):
            raise LocalError(
                f"no certificate is called {name[:80]!a}", hint=f"see: token-relay certs list --dir {ca_dir}"
            )
        newly = sum(entry.is_called(name) and entry.revoked_at is None for entry in index.entries)
        entries = tuple(
            entry.model_copy(update={"revoked_at": now})
            if entry.is_called(name) and entry.revoked_at is None
            else entry
            for entry in index.entries
        )
        _commit(ca_dir, authority, index.model_copy(update={"entries": entries}), now)
    crl = ca_dir / BROKER / broker_files.CRL_NAME
    return RevokedCertificates(name, tuple(entry for entry in entries if entry.is_called(name)), newly, crl)


def clean(ca_dir: Path, out: Path | None = None) -> list[Path]:
    """Remove the drafts that a killed command left, those of a certificate at ``out`` too; return them.

    Raises:
        LocalError: the place is not ours alone, or the disk refused.
        TransientError: another ``certs`` command is running.
    """
    ca_dir, names = ca_dir.absolute(), (CA_KEY, CA_CERTIFICATE, INDEX)
    if not (ca_dir / LOCK).exists():
        return []
    with _locked(ca_dir):
        found = remove_drafts(ca_dir, *names, broker_files.KEY_NAME)
        found += remove_drafts(ca_dir / BROKER, *broker_files.FILE_NAMES)
        return found if out is None else [*found, *remove_drafts(out.absolute().parent, out.name)]


def list_issued(ca_dir: Path) -> tuple[Entry, ...]:
    """Return every certificate that the CA remembers, oldest first.

    Superseded certificates that ended more than ``RENEW_BEFORE`` ago are forgotten, revoked ones never.

    Raises:
        LocalError: there is no readable CA in ``ca_dir``.
    """
    return _load_index(ca_dir.absolute()).entries


# -- Steps -------------------------------------------------------------------------------------------------


def _issue(
    ca_dir: Path,
    authority: pki.Authority,
    index: _Index,
    hosts: tuple[str, ...],
    *,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> Issued:
    certificate = pki.sign_broker(authority, key.public_key(), hosts, serial=_new_serial(), now=now)
    entry = _entry(certificate, hosts[0], "broker", hosts, pki.key_fingerprint(key.public_key()))
    _commit(ca_dir, authority, _added(index, entry, now), now)
    directory = ca_dir / BROKER
    key_file, certificate_file = directory / broker_files.KEY_NAME, directory / broker_files.CERTIFICATE_NAME
    write_atomic(key_file, pki.private_key_pem(key), mode=0o600, owner=_broker_account(), draft_in=ca_dir)
    write_atomic(certificate_file, pki.certificate_pem(certificate), mode=0o644)
    return Issued(entry, certificate_file)


def _commit(ca_dir: Path, authority: pki.Authority, index: _Index, now: datetime) -> _Index:
    """Make the index durable, then the revocation list that follows from it."""
    index = index.model_copy(update={"crl_number": index.crl_number + 1})
    write_atomic(ca_dir / INDEX, index.model_dump_json(indent=1).encode(), mode=0o644)
    revoked = [pki.Revocation(int(e.serial, 16), e.revoked_at) for e in index.entries if e.revoked_at is not None]
    crl = pki.make_crl(authority, revoked, number=index.crl_number, now=now)
    write_atomic(ca_dir / BROKER / broker_files.CRL_NAME, crl, mode=0o644)
    return index


def _added(index: _Index, entry: Entry, now: datetime) -> _Index:
    """Add a line; forget superseded lines that ended long ago, so that the index does not grow for ever."""
    newest = frozenset(_newest(index))
    kept = tuple(e for e in index.entries if e.revoked_at or e in newest or now - e.not_after <= pki.RENEW_BEFORE)
    if len(kept) >= ENTRIES_MAX:
        raise LocalError(f"the CA remembers {ENTRIES_MAX} certificates and takes no more")
    return index.model_copy(update={"entries": (*kept, entry)})


def _newest(index: _Index) -> tuple[Entry, ...]:
    return tuple({entry.name: entry for entry in index.entries}.values())


def _entry(certificate: x509.Certificate, name: str, kind: Kind, hosts: tuple[str, ...], key_sha256: str) -> Entry:
    return Entry(
        name=name,
        kind=kind,
        hosts=hosts,
        serial=f"{certificate.serial_number:x}",
        key_sha256=key_sha256,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def _load(ca_dir: Path) -> tuple[pki.Authority, _Index]:
    index = _load_index(ca_dir)
    key_file = ca_dir / CA_KEY
    key_pem = read_bytes(key_file, size_max=pki.PEM_BYTES_MAX)
    if key_file.stat().st_mode & 0o077:
        raise LocalError(f"others may read {key_file}", hint=f"chmod 600 {key_file}")
    certificate_pem = read_bytes(ca_dir / CA_CERTIFICATE, size_max=pki.PEM_BYTES_MAX)
    return pki.parse_authority(certificate_pem=certificate_pem, private_key_pem=key_pem), index


def _load_index(ca_dir: Path) -> _Index:
    path = ca_dir / INDEX
    _check_place(ca_dir)
    if not path.exists():
        raise LocalError(f"there is no CA in {ca_dir}", hint=f"token-relay certs init --dir {ca_dir}")
    try:
        return _Index.model_validate_json(read_bytes(path, size_max=INDEX_BYTES_MAX))
    except ValidationError:
        raise LocalError(
            f"{path} is damaged", hint="restore index.json from a backup: without it nothing can be revoked"
        ) from None


def _checked_out(out: Path) -> Path:
    """Refuse to write a certificate over anything but a certificate, so that a typing error cannot cost a key."""
    if out.exists() and b"-----BEGIN CERTIFICATE-----" not in read_bytes(out, size_max=pki.PEM_BYTES_MAX):
        raise LocalError(f"{out} exists and is no certificate", hint="give another --out")
    if not out.parent.is_dir():
        raise LocalError(f"{out.parent} is no directory", hint="give another --out")
    return out


def _set_aside(ca_dir: Path) -> Path:
    aside = ca_dir / f"replaced-{secrets.token_hex(4)}"
    make_directory(aside, mode=0o700)
    for name in (INDEX, CA_KEY, CA_CERTIFICATE):  # the index first: without it the directory is no CA any more
        try:
            (ca_dir / name).rename(aside / name)
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise LocalError(f"cannot move {ca_dir / name}: {exc.strerror}") from exc
    sync_directory(aside)
    sync_directory(ca_dir)
    return aside


def _check_place(ca_dir: Path) -> None:
    """Refuse a place in which somebody else could change what is written or read."""
    broker_dir = ca_dir / BROKER
    if broker_dir.is_symlink():
        raise LocalError(f"{broker_dir} is a link", hint=f"rm {broker_dir}")
    for directory in (ca_dir, broker_dir):
        try:
            if directory.exists():
                check_directory(directory)
        except VaultError as exc:
            raise LocalError(str(exc), hint="name a directory of your own with --dir") from exc


@contextmanager
def _locked(ca_dir: Path) -> Iterator[None]:
    _check_place(ca_dir)
    try:
        descriptor = os.open(ca_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError as exc:
        raise LocalError(f"there is no CA in {ca_dir}", hint=f"token-relay certs init --dir {ca_dir}") from exc
    except OSError as exc:
        raise LocalError(f"cannot open {ca_dir / LOCK}: {exc.strerror}") from exc
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise TransientError(
                f"another certs command works in {ca_dir}", hint="run the command again when that one has ended"
            ) from exc
        yield
    finally:
        os.close(descriptor)


def _broker_account() -> Owner | None:
    """Return mosquitto's account when we are root and it exists; else the files stay with whoever runs this."""
    if os.geteuid() != 0:
        return None
    try:
        account = pwd.getpwnam(BROKER_ACCOUNT)
    except KeyError:
        return None
    return Owner(account.pw_uid, account.pw_gid)


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _new_serial() -> int:
    return pki.serial_number(secrets.token_bytes(pki.SERIAL_BYTES))


def _moment(now: datetime | None) -> datetime:
    return datetime.now(UTC) if now is None else now
