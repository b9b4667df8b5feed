"""What the channel promises about coming back, naming its troubles, TLS, and leaving nothing behind."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
import structlog

from tests.channel import raw
from tests.channel.certificates import Authority
from tests.channel.channel_kit import (
    FROM_PEER,
    ME,
    End,
    Tls,
    running,
    settings,
)
from tests.channel.mosquitto import Mosquitto
from tests.channel.raw import Raw, ScriptedBroker, Wire, welcome
from tests.watchdog import HANG_S
from token_relay.host.config import BrokerConfig
from token_relay.mqtt.channel import backoff_s_max
from token_relay.mqtt.connection import MqttSettings
from token_relay.protocol.errors import ConfigError, VaultError
from token_relay.protocol.secret import Password
from token_relay.sandbox.mqtt.broker import Broker
from token_relay.service.certificate_watch import CertificateWatch

pytestmark = pytest.mark.asyncio


# -- reconnecting and last_error ----------------------------------------------------------------------------


async def test_backoff_doubles_with_full_jitter_up_to_a_minute() -> None:
    assert [backoff_s_max(n) for n in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff_s_max(10_000) == 60
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return high / 4

    end = End(settings(1), uniform=uniform)
    async with running(end):
        for _ in range(4):
            assert await end.down() == "connection refused"
    assert drawn[:4] == [(0, 1), (0, 2), (0, 4), (0, 8)]
    assert end.pauses[:4] == [0.25, 0.5, 1.0, 2.0]


async def test_only_a_healthy_minute_resets_the_backoff(embedded: Broker) -> None:
    now = 1000.0
    end = End(settings(embedded.port), monotonic=lambda: now)
    async with running(end):
        for healthy_s in (0.0, 59.0, 60.0, 10.0):
            await end.up()
            now += healthy_s
            assert embedded.drop(ME)
            await end.down()
    assert end.pauses[:4] == [1.0, 2.0, 1.0, 2.0]


async def test_renewed_certificates_end_the_pause(embedded: Broker) -> None:
    never = asyncio.Event()

    async def sleep(seconds: float) -> None:
        end.paused.put_nowait(end.channel.last_error)
        await never.wait()

    end = End(settings(embedded.port), sleep=sleep)
    async with running(end):
        await end.up()
        embedded.drop(ME)
        assert await end.down() == "connection lost"
        end.channel.certificates_renewed()
        assert await end.up() is True


async def test_a_taken_over_client_id_is_named(embedded: Broker) -> None:
    async with running(End(settings(embedded.port))) as end:
        await end.up()
        wire = await Wire.to(embedded.port)
        wire.send(raw.connect(ME, level=4))
        assert await end.down() == "another connection uses this client id"
        await wire.close()


@pytest.mark.parametrize(
    ("level", "code", "words"),
    [
        (5, 0x84, "the broker does not speak this protocol version"),
        (5, 0x86, "user name or password not accepted"),
        (5, 0x87, "not authorized"),
        (5, 0x97, "a quota of the broker is exceeded"),
        (5, 0x9D, "closed by the broker with reason code 0x9d"),
        (4, 2, "client id not accepted"),
        (4, 3, "the broker is not available"),
        (4, 4, "user name or password not accepted"),
        (4, 5, "not authorized"),
    ],
)
async def test_a_refused_connect_is_put_into_words(level: int, code: int, words: str) -> None:
    async def script(wire: Wire) -> None:
        await wire.expect(1)
        wire.send(raw.packet(0x20, bytes([0, code]) + (b"\0" if level == 5 else b"")))
        await wire.end()

    protocol = "5" if level == 5 else "3.1.1"
    async with ScriptedBroker(script) as broker, running(End(settings(broker.port, protocol=protocol))) as end:
        assert await end.down() == words
        assert end.channel.last_error == words


async def test_a_broker_that_hangs_up_during_connect_does_not_cost_the_timeout(
    protocol: str, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("token_relay.mqtt.connection.CONNECT_TIMEOUT_S", 10 * HANG_S)

    async def hang_up(wire: Wire) -> None:
        await wire.expect(1)

    async def hang_up_after_connack(wire: Wire) -> None:
        await wire.expect(1)
        wire.send(raw.packet(0x20, b"\0\0" + (b"\0" if level == 5 else b"")) + (b"\xe0\x01\x8b" if level == 5 else b""))

    async with (
        ScriptedBroker(hang_up, hang_up_after_connack) as broker,
        running(End(settings(broker.port, protocol=protocol))) as end,
        asyncio.timeout(HANG_S),
    ):
        assert await end.down() == "connection lost"
        assert await end.down() == ("the broker is shutting down" if level == 5 else "connection lost")


async def test_user_name_and_password_are_sent_and_their_refusal_is_named(tmp_path: Path, protocol: str) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    passwords.chmod(0o600)
    lines = (f"password_file {passwords}",)
    async with Mosquitto(tmp_path / "broker", *lines, anonymous=False) as broker:
        me = settings(broker.port, protocol=protocol, username="me", password=Password("wrong-password"))
        assert "wrong-password" not in repr(me)
        async with running(End(me)) as end:
            assert await end.down() == "not authorized"


# -- TLS ----------------------------------------------------------------------------------------------------


def tls_lines(authority: Authority) -> tuple[str, ...]:
    cert, key = authority.issue("broker")
    return (f"cafile {authority.ca}", f"certfile {cert}", f"keyfile {key}", "require_certificate true")


async def test_mutual_tls_works_and_renewed_files_are_picked_up(
    tmp_path: Path, authority: Authority, protocol: str
) -> None:
    stranger = Authority(tmp_path / "strangers", "other-ca")
    cert, key = stranger.issue(ME)
    async with Mosquitto(tmp_path / "broker", *tls_lines(authority)) as broker:
        tls = Tls(use_tls=True, ca_file=authority.ca, cert_file=cert, key_file=key)
        async with running(End(settings(broker.port, protocol=protocol, **tls))) as end:
            assert await end.down() == "certificate not accepted by the broker"
            good_cert, good_key = authority.issue(ME)
            good_cert.replace(cert)
            good_key.replace(key)
            await end.up()
            assert await end.channel.publish(FROM_PEER, b"over TLS" * 2000)
            assert await end.next() == b"over TLS" * 2000


async def test_an_open_connection_takes_up_renewed_files_when_it_is_told(tmp_path: Path, authority: Authority) -> None:
    cert, key = authority.issue(ME)
    stranger = Authority(tmp_path / "strangers", "other-ca")
    async with Mosquitto(tmp_path / "broker", *tls_lines(authority)) as broker:
        tls = Tls(use_tls=True, ca_file=authority.ca, cert_file=cert, key_file=key)
        async with running(End(settings(broker.port, **tls))) as end:
            await end.up()
            watch = CertificateWatch(
                BrokerConfig(url="mqtts://broker", ca=authority.ca, cert=cert, key=key),
                end.channel.certificates_renewed,
            )
            watch.check()
            assert end.channel.is_connected, "nothing changed"
            old_cert, old_key = cert.read_bytes(), key.read_bytes()
            bad_cert, bad_key = stranger.issue(ME)
            bad_cert.replace(cert)
            watch.check()
            assert end.channel.is_connected, "certificate and key do not belong together yet"
            bad_key.replace(key)
            watch.check()
            assert await end.down() == "the certificates were renewed"
            assert await end.down() == "certificate not accepted by the broker", "it has read the files anew"
            cert.write_bytes(old_cert)
            key.write_bytes(old_key)
            await end.up()


async def test_a_broker_with_a_foreign_certificate_or_name_is_refused(tmp_path: Path, authority: Authority) -> None:
    other = Authority(tmp_path / "other", "other-ca")
    async with Mosquitto(tmp_path / "broker", *tls_lines(authority)[:3]) as broker:
        async with running(End(settings(broker.port, use_tls=True, ca_file=other.ca))) as end:
            assert (await end.down()).startswith("certificate not accepted: ")
            wrong_name = MqttSettings("localhost", broker.port, ME, use_tls=True, ca_file=authority.ca)
        async with running(End(wrong_name)) as end:
            assert "localhost" in await end.down()
        async with running(End(settings(broker.port, use_tls=True))) as end:
            assert (await end.down()).startswith("certificate not accepted: ")


async def test_a_missing_certificate_of_ours_is_named(tmp_path: Path, authority: Authority, protocol: str) -> None:
    async with Mosquitto(tmp_path / "broker", *tls_lines(authority)) as broker:
        me = settings(broker.port, protocol=protocol, use_tls=True, ca_file=authority.ca)
        async with running(End(me)) as end:
            assert await end.down() == "certificate not accepted by the broker"


async def test_unreadable_files_are_errors_of_ours_and_never_a_question(tmp_path: Path, authority: Authority) -> None:
    cert, key = authority.issue(ME, passphrase=b"secret")
    gone = tmp_path / "gone.pem"
    async with running(End(settings(1, use_tls=True, ca_file=authority.ca, cert_file=cert, key_file=key))) as end:
        assert (await end.down()).startswith("TLS failed")
    async with running(End(settings(1, use_tls=True, ca_file=gone))) as end:
        assert (await end.down()).startswith("certificate file not readable")


async def test_a_certificate_of_another_device_is_no_fault_of_the_broker(tmp_path: Path, authority: Authority) -> None:
    (cert, _), (_, key) = authority.issue("another"), authority.issue(ME)
    async with running(End(settings(1, use_tls=True, ca_file=authority.ca, cert_file=cert, key_file=key))) as end:
        assert await end.down() == "certificate and key do not belong together"


async def test_plain_mqtt_where_tls_is_expected_is_an_error(embedded: Broker, authority: Authority) -> None:
    async with running(End(settings(embedded.port, use_tls=True, ca_file=authority.ca))) as end:
        assert await end.down() != ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": ""},
        {"port": 0},
        {"port": 65_536},
        {"client_id": ""},
        {"cert_file": Path("x"), "use_tls": True},
        {"ca_file": Path("x")},
        {"keepalive_s": 0},
        {"receive_maximum": 0},
    ],
)
async def test_settings_that_can_never_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        MqttSettings(**({"host": "h", "port": 1883, "client_id": ME} | wrong))  # type: ignore[arg-type]  # that is it


# -- leaving nothing behind ---------------------------------------------------------------------------------


async def test_the_end_is_a_clean_disconnect(protocol: str, level: int) -> None:
    last: asyncio.Queue[Raw] = asyncio.Queue()

    async def script(wire: Wire) -> None:
        await welcome(wire, level=level)
        last.put_nowait(await wire.read())

    async with ScriptedBroker(script) as broker:
        async with running(End(settings(broker.port, protocol=protocol))) as end:
            await end.up()
        assert (await last.get()).kind == 14


async def test_cancelling_while_the_broker_does_not_answer_leaves_nothing(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("token_relay.mqtt.connection.CONNECT_TIMEOUT_S", 10 * HANG_S)
    arrived = asyncio.Event()

    async def silent(wire: Wire) -> None:
        await wire.expect(1)
        arrived.set()
        await wire.end()

    async with ScriptedBroker(silent) as broker:
        async with asyncio.timeout(HANG_S):
            async with running(End(settings(broker.port, protocol=protocol))):
                await arrived.wait()


async def test_cancelling_at_the_moment_of_a_failure_is_not_swallowed(embedded: Broker) -> None:
    end = End(settings(embedded.port))
    task = asyncio.create_task(end.run())

    async def handler(topic: str, payload: bytes) -> None:
        task.cancel()
        raise VaultError("disk full")

    end.handler = handler
    await end.up()
    embedded.inject(FROM_PEER, b"x")
    async with asyncio.timeout(HANG_S):
        await asyncio.wait({task})
    assert task.cancelled()


async def test_a_handler_that_was_cancelled_under_itself_counts_as_failed(embedded: Broker) -> None:
    end = End(settings(embedded.port))
    is_first = True

    async def handler(topic: str, payload: bytes) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            raise asyncio.CancelledError

    end.handler = handler
    async with running(end):
        await end.up()
        embedded.inject(FROM_PEER, b"x")
        assert await end.down() == "message handler was cancelled"
        assert await end.next() == b"x"


async def test_cancelling_in_the_middle_of_a_tls_handshake_leaves_nothing(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("token_relay.mqtt.connection.CONNECT_TIMEOUT_S", 0.3)
    arrived = asyncio.Event()

    async def silent(wire: Wire) -> None:
        await wire.reader.read(1)
        arrived.set()
        await wire.end()

    async with (
        ScriptedBroker(silent) as broker,
        running(End(settings(broker.port, use_tls=True, ca_file=authority.ca))),
    ):
        await arrived.wait()


async def test_the_library_writes_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str], protocol: str) -> None:
    with structlog.testing.capture_logs():
        async with Broker() as broker, running(End(settings(broker.port, protocol=protocol))) as end:
            await end.up()
            broker.drop(ME)
            await end.down()
            await end.up()
            for _ in range(15):  # above the number of pending calls at which the library warns
                asyncio.get_running_loop().call_soon(lambda: None)
            await asyncio.gather(*(end.channel.publish(FROM_PEER, b"x") for _ in range(15)))
            await broker.stop()
            await end.down()
    assert capfd.readouterr() == ("", "")


async def test_many_connections_leave_no_threads_and_no_descriptors(embedded: Broker) -> None:
    async with running(End(settings(embedded.port))) as end:
        await end.up()
        before = threading.active_count()
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(20):
            embedded.drop(ME)
            await end.up()
        assert threading.active_count() <= before + 8  # the event loop's pool grows to a few and stays
        assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 2
