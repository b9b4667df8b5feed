"""Writes an agent's numbers in Prometheus' text format, when they are asked for.

It reads grants, outbox and handoffs from the vault at that moment. It counts what only this process saw (refreshes,
rejected envelopes, the provider's latency) from the process's start, as Prometheus expects of counters. Labels are
states, reasons and ids: never accounts. Only ``token_relay_device_info`` has what another end chose, a device's name,
without what does not print; everything else of a device goes by its id.

``prometheus_client`` writes the text and is imported at the first question, so that a device without metrics does not
load it. Source: Prometheus text format 0.0.4.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from token_relay.agents.device_names import NAME_CHARS_MAX
from token_relay.agents.ports import Now, Transaction
from token_relay.agents.records import CachedToken, CompanionHandoff, Grant, Outgoing, PhoneHandoff
from token_relay.provider.http import AnswerLost, Http, HttpRequest, HttpResponse, NotSent
from token_relay.service.status import grant_row

if TYPE_CHECKING:
    from prometheus_client.core import Metric

Json = dict[str, Any]
DEVICES_MAX = 5_000  # what an agent answers in one line has 4 MiB, and a device up to 700 bytes
# A refresh takes a tenth of a second at a provider nearby, and after 30 s we give up.
BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(slots=True)
class Latency:
    """How long requests of one kind took: counts per bucket, the last one without an upper end."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    sum_s: float = 0.0

    def add(self, took_s: float) -> None:
        """Count one request."""
        self.counts[bisect_left(BUCKETS_S, took_s)] += 1
        self.sum_s += took_s

    def buckets(self) -> list[tuple[str, float]]:
        """Return pairs (upper end, count of all up to it), as the text format wants them."""
        total, shown = 0, []
        for end, count in zip((*map(str, BUCKETS_S), "+Inf"), self.counts, strict=True):
            total += count
            shown.append((end, float(total)))
        return shown


class MeasuredHttp:
    """Another Http port, with its requests timed. The results are ``answered``, ``not_sent`` and ``lost``."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self.latency: dict[str, Latency] = {}

    async def request(self, request: HttpRequest) -> HttpResponse | NotSent | AnswerLost:
        """Send one request; see :class:`token_relay.provider.http.Http`. A cancelled one is not counted."""
        began_s = time.monotonic()
        answer = await self._http.request(request)
        match answer:
            case HttpResponse():
                result = "answered"
            case NotSent():
                result = "not_sent"
            case AnswerLost():
                result = "lost"
        self.latency.setdefault(result, Latency()).add(time.monotonic() - began_s)
        return answer


@dataclass(frozen=True, slots=True)
class VaultFigures:
    """The numbers from the vault."""

    grants: list[Grant]
    tokens: list[CachedToken]
    outbox: list[Outgoing]
    handoffs: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """The numbers that this process counted."""

    now: Now
    is_connected: bool
    refreshes: Mapping[str, int]
    rejects: Mapping[str, int]
    latency: Mapping[str, Latency]
    devices: Sequence[Json] = ()
    """Rows of :mod:`.devices`; a companion has none."""
    action: str = ""
    certificate_ends_at: int | None = None


def read(tx: Transaction) -> VaultFigures:
    """Read the numbers from the vault; an agent has handoffs of one end only."""
    states = [row.state for row in tx.select(PhoneHandoff)] + [row.state for row in tx.select(CompanionHandoff)]
    return VaultFigures(tx.select(Grant), tx.select(CachedToken), tx.select(Outgoing), Tally(states))


def text(stored: VaultFigures, seen: ProcessFigures) -> str:
    """Return the whole page."""
    from prometheus_client.exposition import generate_latest
    from prometheus_client.registry import CollectorRegistry

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(stored, seen))
    return generate_latest(registry).decode()


class _Page:
    """A collector in Prometheus' sense, which is asked once, for everything."""

    def __init__(self, stored: VaultFigures, seen: ProcessFigures) -> None:
        self._stored = stored
        self._seen = seen

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        stored, seen = self._stored, self._seen
        rows = [grant_row(grant, stored.tokens, "", seen.now) for grant in stored.grants]

        def by(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
            family = GaugeMetricFamily(f"token_relay_{name}", help_text, labels=[label])
            for key, value in sorted(values.items()):
                family.add_metric([key], value)
            return family

        def counted(name: str, help_text: str, label: str, values: Mapping[str, int]) -> Metric:
            family = CounterMetricFamily(f"token_relay_{name}", help_text, labels=[label])
            for key, value in sorted(values.items()):
                family.add_metric([key], value)
            return family

        yield by("grants", "Grants in the vault.", "state", Tally(str(row["state"]) for row in rows))
        yield by(
            "last_refresh_timestamp_seconds",
            "When the grant was last refreshed, Unix time; 0 for never.",
            "grant_id",
            {row["grant_id"]: row["refreshed_at"] for row in rows},
        )
        yield by(
            "access_left_seconds",
            "How long the longest-lived access token of the grant still works.",
            "grant_id",
            {row["grant_id"]: max(0.0, row["access_token_ends_at"] - seen.now.wall_s) for row in rows},
        )
        yield by(
            "lease_left_seconds",
            "How long the grant may go on without a word from the phone.",
            "grant_id",
            {row["grant_id"]: row["lease_left_s"] for row in rows if row["lease_left_s"] is not None},
        )
        yield counted("refreshes", "Refreshes by outcome.", "outcome", seen.refreshes)
        to_do = {seen.action: 1} if seen.action else {}
        yield from _of_devices(seen.devices[:DEVICES_MAX], by)
        yield by("action", "1 for what a person must do, as in status.", "slug", to_do)
        if seen.certificate_ends_at is not None:
            yield GaugeMetricFamily(
                "token_relay_certificate_end_timestamp_seconds",
                "When the certificate for the broker ends, Unix time.",
                seen.certificate_ends_at,
            )
        yield by("outbox_messages", "Requests without an answer.", "type", Tally(row.type for row in stored.outbox))
        yield by("handoffs", "Handoffs by state.", "state", stored.handoffs)
        yield counted("envelopes_rejected", "Envelopes that were refused, by reason.", "reason", seen.rejects)
        yield GaugeMetricFamily("token_relay_broker_connected", "1 while the broker is connected.", seen.is_connected)
        yield GaugeMetricFamily("token_relay_clock_synced", "1 while the clock is synchronised.", seen.now.is_synced)
        histogram = HistogramMetricFamily(
            "token_relay_provider_request_seconds", "Requests to the provider.", labels=["result"]
        )
        for result, latency in sorted(seen.latency.items()):
            histogram.add_metric([result], latency.buckets(), latency.sum_s)
        yield histogram


def _of_devices(rows: Sequence[Json], by: Callable[[str, str, str, Mapping[str, float]], Metric]) -> Iterator[Metric]:
    """Yield what is known of each device; the name stands in the first family alone."""
    from prometheus_client.core import GaugeMetricFamily

    if not rows:
        return
    yield by("devices", "Paired devices.", "state", Tally(row["state"] for row in rows))
    info = GaugeMetricFamily("token_relay_device_info", "The device's name.", labels=["device_id", "name"])
    state = GaugeMetricFamily("token_relay_device_state", "1 for the present state.", labels=["device_id", "state"])
    for row in rows:
        info.add_metric([row["device_id"], printable(row["name"])], 1)
        state.add_metric([row["device_id"], row["state"]], 1)
    yield info
    yield state
    for name, help_text, key in (
        ("last_heard_timestamp_seconds", "When it was last heard, Unix time; 0 for never.", "heard_at"),
        ("lease_left_seconds", "How long it may go on at most without a word from here.", "lease_left_s"),
        ("grant_end_timestamp_seconds", "When its grant ends at the provider, Unix time.", "grant_ends_at"),
        ("grant_life_seconds", "How long its grant lives in all, or unused.", "grant_life_s"),
    ):
        known = {row["device_id"]: row[key] for row in rows if row[key] is not None}
        yield by(f"device_{name}", help_text, "device_id", known)


def printable(name: str) -> str:
    """Return a device's name without what does not print, or turns the direction of what follows it."""
    return "".join(c if c.isprintable() else "?" for c in name[:NAME_CHARS_MAX])
