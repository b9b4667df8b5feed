"""Helpers of these tests: a real mosquitto on the files that ``certs init`` wrote, and clients of every kind."""

from __future__ import annotations

import os
import queue
import secrets
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from tests import needs
from tests.watchdog import HANG_S
from token_relay.ca import store as certs
from token_relay.host.device_key import write_csr

T = TypeVar("T")


@dataclass
class Device:
    """A device with its key and certificate."""

    name: str
    key: Path
    certificate: Path
    ca: Path

    def tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.certificate, self.key)
        return context


def enrol(ca_dir: Path, home: Path, name: str, *, now: datetime | None = None) -> Device:
    """Take a device through init and ``certs sign``, as a person would."""
    home.mkdir(parents=True, exist_ok=True)
    files = write_csr(home, name)
    issued = certs.sign(ca_dir, files.csr, now=now)
    return Device(name, files.key, issued.path, ca_dir / "ca.pem")


@dataclass(frozen=True)
class Knock:
    """What the broker answered, and the TLS session to resume with."""

    said: str
    session: ssl.SSLSession | None
    is_resumed: bool


def free_port() -> int:
    """Return a port that no process listens on, from below the range that the kernel uses for outgoing connections.

    A port of that range, as binding to 0 gives, may be taken by anybody's connection before mosquitto binds it.
    """
    first_of_kernel = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = first_of_kernel - 1 - secrets.randbelow(min(10_000, first_of_kernel - 1024))
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            return port


class Broker:
    """A running mosquitto; its log is read line by line, so a test waits for a line and not for a time."""

    def __init__(self, conf: Path, port: int) -> None:
        self.port = port
        self.lines: queue.Queue[str] = queue.Queue()
        command = [needs.find("mosquitto") or "mosquitto", "-v", "-c", str(conf)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        self._log = self.process.stdout
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._log:
            self.lines.put(line.rstrip())
        self.lines.put("(end of log)")

    def wait_for(self, text: str) -> str:
        """Return the next line of the log that holds ``text``."""
        seen = []
        while True:
            line = self.lines.get(timeout=HANG_S)
            seen.append(line)
            if text in line:
                return line
            assert line != "(end of log)", "\n".join(seen)

    def reload(self) -> None:
        self.process.send_signal(signal.SIGHUP)
        self.wait_for("Reloading config")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(HANG_S)
        self._reader.join(HANG_S)
        self._log.close()


@contextmanager
def running(conf: Path, port: int) -> Iterator[Broker]:
    broker = Broker(conf, port)
    try:
        broker.wait_for("running")
        yield broker
    finally:
        broker.stop()


def knock(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Knock:
    """Connect with a bare MQTT 3.1.1 CONNECT and return the answer: ``connack N`` or the TLS alert (RFC 8446 §6).

    In TLS 1.3 the client's part of the handshake succeeds, and a refusal may arrive while we are writing. So TLS runs
    over memory here, a failing send is passed over, and all that the broker said is read.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost", session=session)
    with socket.create_connection(("127.0.0.1", port), timeout=HANG_S) as plain:

        def exchange(step: Callable[[], T]) -> T:
            while True:
                try:
                    result = step()
                except ssl.SSLWantReadError:
                    _send(plain, outgoing.read())
                    _receive(plain, incoming)
                else:
                    _send(plain, outgoing.read())
                    return result

        try:
            exchange(tls.do_handshake)
            exchange(lambda: tls.write(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x"))
            answer = exchange(lambda: tls.read(4))
        except ssl.SSLError as exc:
            return Knock(str(exc.reason), None, is_resumed=False)
        said = f"connack {answer[3]}" if answer[:1] == b"\x20" else f"not MQTT: {answer.hex()}"
        return Knock(said, tls.session, is_resumed=bool(tls.session_reused))


def _send(plain: socket.socket, data: bytes) -> None:
    try:
        plain.sendall(data)
    except ConnectionError:  # the broker has hung up; what it said before is still to be read
        pass


def _receive(plain: socket.socket, incoming: ssl.MemoryBIO) -> None:
    try:
        data = plain.recv(65536)
    except ConnectionError:
        data = b""
    if data:
        incoming.write(data)
    else:
        incoming.write_eof()


@dataclass
class Client:
    """A paho MQTT 5 client of one device, with its answers as return values."""

    device: Device
    port: int
    client_id: str = ""
    session_expiry_s: int = 0
    messages: queue.Queue[tuple[str, bytes]] = field(default_factory=queue.Queue)

    def __enter__(self) -> Client:
        self._answers: queue.Queue[tuple[str, int]] = queue.Queue()
        self.paho = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=self.client_id or self.device.name, protocol=paho.MQTTv5
        )
        self.paho.tls_set_context(self.device.tls())
        self.paho.on_connect = self._connected
        self.paho.on_subscribe = lambda c, u, mid, codes, p: self._answers.put(("suback", codes[0].value))
        self.paho.on_publish = lambda c, u, mid, code, p: self._answers.put(("puback", code.value))
        self.paho.on_message = lambda c, u, m: self.messages.put((m.topic, bytes(m.payload)))
        self.paho.on_disconnect = lambda c, u, flags, code, p: self._answers.put(("disconnect", code.value))
        connect = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves this one untyped
        connect.SessionExpiryInterval = self.session_expiry_s
        self.paho.connect("localhost", self.port, properties=connect, clean_start=False)
        self.paho.loop_start()
        assert self._next("connect") == 0
        return self

    def __exit__(self, *exc: object) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()

    def _connected(
        self, client: paho.Client, userdata: object, flags: paho.ConnectFlags, code: ReasonCode, properties: object
    ) -> None:
        self.flags = flags  # before the answer: a caller that has the answer may look at these
        self._answers.put(("connect", code.value))

    def _next(self, kind: str) -> int:
        answered, code = self._answers.get(timeout=HANG_S)
        assert answered == kind
        return code

    def subscribe(self, topic_filter: str) -> int:
        self.paho.subscribe(topic_filter, qos=1)
        return self._next("suback")

    def publish(self, topic: str, payload: bytes) -> int:
        """Publish with QoS 1 and return the reason code of the PUBACK (0x00, 0x10: taken; 0x87: not authorized)."""
        self.paho.publish(topic, payload, qos=1)
        return self._next("puback")

    def next_disconnect(self) -> int:
        """Return the reason code with which the broker ended the connection."""
        return self._next("disconnect")

    def next_message(self) -> tuple[str, bytes]:
        return self.messages.get(timeout=HANG_S)


def reachable_directory(path: Path) -> Path:
    """Make a directory that mosquitto's own account can reach when the tests run as root."""
    path.mkdir(parents=True)
    if os.geteuid() == 0:
        path.chmod(0o755)
    return path
