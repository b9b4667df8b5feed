"""The numbers are those of vault and process, in a text that Prometheus reads, and the dashboard asks for no others."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families

from tests.channel.certificates import Authority
from tests.needs import find, missing
from tests.watchdog import HANG_S
from token_relay.agents.elapsed import Stamp
from token_relay.agents.ports import Now
from token_relay.agents.records import CachedToken, Grant, GrantStateName, Outgoing
from token_relay.cli.main import commands_of
from token_relay.protocol.secret import AccessToken, RefreshToken
from token_relay.provider.http import AnswerLost, HttpRequest, HttpResponse, NotSent
from token_relay.service import metrics
from token_relay.service.certificate_watch import certificate_end
from token_relay.service.metrics import Latency, MeasuredHttp, ProcessFigures, VaultFigures

DOCS = Path(__file__).parents[2] / "docs"
DASHBOARD, ALERTS = DOCS / "grafana-dashboard.json", DOCS / "prometheus-alerts.yml"
CASES = Path(__file__).with_name("cases") / "prometheus-alerts.test.yml"
NOW = Now("boot", 5_000.0, 1_800_000_000.0, True)


def grant(grant_id: str, state: GrantStateName) -> Grant:
    return Grant(
        grant_id,
        "p",
        "h",
        issuer="https://i",
        client_id="c",
        token_endpoint="",
        revocation_endpoint="",
        scope="s",
        audience="",
        subject="sub",
        account="person@example",
        profile="strict",
        signed_in_at=1,
        is_otp=False,
        stored_at=1,
        refresh_token=RefreshToken("rt-1"),
        state=state,
        refreshed_at=1_799_999_000,
    )


def page() -> str:
    sent = Stamp(NOW.boot_id, NOW.boot_s, NOW.wall_s, NOW.is_synced).to_text()
    token = CachedToken("g1", "s", "s", "Bearer", sent, 600.0, 1, AccessToken("at-1"))
    latency = Latency()
    for took_s in (0.04, 0.2, 99.0):
        latency.add(took_s)
    stored = VaultFigures(
        [grant("g1", "held"), grant("g2", "needs_handoff")],
        [token],
        [Outgoing("p", 1, "REVOKE", "h", b"", sent), Outgoing("p", 2, "REVOKE", "h", b"", sent)],
        {"stored": 2, "dead": 1},
    )
    return metrics.text(
        stored, ProcessFigures(NOW, True, {"refreshed": 4, "refresh_denied": 1}, {"replayed": 3}, {"answered": latency})
    )


def test_page_says_what_vault_and_process_know() -> None:
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page())
        for sample in family.samples
    }
    assert found == {
        ("token_relay_grants", "held"): 1,
        ("token_relay_grants", "needs_handoff"): 1,
        ("token_relay_last_refresh_timestamp_seconds", "g1"): 1_799_999_000,
        ("token_relay_last_refresh_timestamp_seconds", "g2"): 1_799_999_000,
        ("token_relay_access_left_seconds", "g1"): 600,
        ("token_relay_access_left_seconds", "g2"): 0,
        ("token_relay_refreshes_total", "refreshed"): 4,
        ("token_relay_refreshes_total", "refresh_denied"): 1,
        ("token_relay_outbox_messages", "REVOKE"): 2,
        ("token_relay_handoffs", "stored"): 2,
        ("token_relay_handoffs", "dead"): 1,
        ("token_relay_envelopes_rejected_total", "replayed"): 3,
        ("token_relay_broker_connected",): 1,
        ("token_relay_clock_synced",): 1,
        **{
            ("token_relay_provider_request_seconds_bucket", *sorted(("answered", end))): count
            for end, count in zip(
                ("0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "30.0", "+Inf"),
                (1, 1, 2, 2, 2, 2, 2, 2, 2, 3),
                strict=True,
            )
        },
        ("token_relay_provider_request_seconds_count", "answered"): 3,
        ("token_relay_provider_request_seconds_sum", "answered"): pytest.approx(99.24),
    }


def test_page_holds_no_secret_and_no_name() -> None:
    for word in ("rt-1", "at-1", "person@example", "https://i"):
        assert word not in page()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "result"),
    [(HttpResponse(200, {}, b""), "answered"), (NotSent("dns"), "not_sent"), (AnswerLost("x"), "lost")],
)
async def test_each_end_of_a_request_is_counted(answer: HttpResponse | NotSent | AnswerLost, result: str) -> None:
    class Provider:
        async def request(self, request: HttpRequest) -> HttpResponse | NotSent | AnswerLost:
            return answer

    http = MeasuredHttp(Provider())
    assert await http.request(HttpRequest("GET", "https://i")) is answer
    assert {key: sum(value.counts) for key, value in http.latency.items()} == {result: 1}


def test_an_agent_that_nobody_asks_does_not_load_prometheus() -> None:
    code = "import sys, token_relay.service.companion, token_relay.service.phone as _; "
    code += "sys.exit('prometheus_client' in sys.modules)"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=HANG_S, check=False).returncode == 0


def device(name: str, state: str, **more: object) -> dict[str, object]:
    row = {"device_id": name[:1] * 26, "name": name, "state": state, "heard_at": 1_799_999_940}
    return row | {"lease_left_s": None, "grant_ends_at": None, "grant_life_s": None} | more


def page_with_devices(*devices: dict[str, object]) -> str:
    seen = ProcessFigures(NOW, True, {}, {}, {}, devices=devices, action="hand_off", certificate_ends_at=1_800_864_000)
    return metrics.text(VaultFigures([], [], [], {}), seen)


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "provider_request" not in sample.name and sample.name not in ("token_relay_broker_connected",)
    }


WHOLE = device("hall", "online", lease_left_s=600, grant_ends_at=1_800_000_900, grant_life_s=1800.0)


def test_each_device_has_its_series_and_its_name_stands_once() -> None:
    h, k = "h" * 26, "k" * 26
    assert samples(page_with_devices(device("kitchen", "needs_me"), WHOLE)) == {
        ("token_relay_devices", "needs_me"): 1,
        ("token_relay_devices", "online"): 1,
        ("token_relay_device_info", k, "kitchen"): 1,
        ("token_relay_device_info", h, "hall"): 1,
        ("token_relay_device_state", k, "needs_me"): 1,
        ("token_relay_device_state", h, "online"): 1,
        ("token_relay_device_last_heard_timestamp_seconds", k): 1_799_999_940,
        ("token_relay_device_last_heard_timestamp_seconds", h): 1_799_999_940,
        ("token_relay_device_lease_left_seconds", h): 600,
        ("token_relay_device_grant_end_timestamp_seconds", h): 1_800_000_900,
        ("token_relay_device_grant_life_seconds", h): 1800,
        ("token_relay_action", "hand_off"): 1,
        ("token_relay_certificate_end_timestamp_seconds",): 1_800_864_000,
        ("token_relay_clock_synced",): 1,
    }


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ('a"} 1\ntoken_relay_action{slug="x', 'a"} 1?token_relay_action{slug="x'),
        ("back\\slash", "back\\slash"),
        ("turned\u202eround", "turned?round"),
        ("x" * 5_000, "x" * 64),
        ("Küche 厨房", "Küche 厨房"),
    ],
)
def test_a_hostile_name_is_a_label_and_nothing_else(name: str, shown: str) -> None:
    page = page_with_devices(device(name, "online") | {"device_id": "a" * 26})
    info = [key for key in samples(page) if key[0] == "token_relay_device_info"]
    assert info == [("token_relay_device_info", "a" * 26, shown)]
    assert ("token_relay_action", "x") not in samples(page)


def exported() -> set[str]:
    pages = (page(), page_with_devices(WHOLE))
    names = {
        sample.name for text in pages for family in text_string_to_metric_families(text) for sample in family.samples
    }
    return names | {"token_relay_lease_left_seconds"}  # these grants have no lease


def test_dashboard_asks_for_numbers_that_exist() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    targets = [target for panel in panels for target in panel.get("targets", ())]
    asked = {name for target in targets for name in re.findall(r"token_relay_\w+", target["expr"])}
    assert asked <= exported()
    assert len(asked) >= 14


def test_alerts_ask_for_numbers_that_exist_and_commands_that_there_are() -> None:
    text = ALERTS.read_text(encoding="utf-8")
    asked = set(re.findall(r"token_relay_\w+", text))
    assert asked <= exported()
    assert len(asked) >= 8
    for words in re.findall(r"token-relay ((?:phone|companion|certs) [a-z]+)", text):
        group, name = words.split()
        assert name in commands_of(group), words


@pytest.mark.skipif(bool(missing("promtool")), reason=missing("promtool"))
def test_promtool_takes_the_alert_rules_and_they_say_what_they_should(tmp_path: Path) -> None:
    promtool = find("promtool")
    assert promtool is not None
    for file in (ALERTS, CASES):
        shutil.copy(file, tmp_path)
    for words in (("check", "rules", "--lint=all", "--lint-fatal", ALERTS.name), ("test", "rules", CASES.name)):
        ran = subprocess.run(
            [promtool, *words], cwd=tmp_path, capture_output=True, text=True, timeout=HANG_S, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
    tested = set(re.findall(r"alertname: (\w+)", CASES.read_text(encoding="utf-8")))
    assert tested == set(re.findall(r"alert: (\w+)", ALERTS.read_text(encoding="utf-8")))


def test_the_end_of_the_certificate_is_read_from_its_file(tmp_path: Path) -> None:
    cert, key = Authority(tmp_path / "ca").issue("a" * 26)
    ends_at = x509.load_pem_x509_certificate(cert.read_bytes()).not_valid_after_utc
    assert certificate_end(cert) == int(ends_at.timestamp())
    assert [certificate_end(file) for file in (None, key, tmp_path / "absent.pem")] == [None, None, None]
