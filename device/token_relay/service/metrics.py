"""Writes an agent's numbers in Prometheus' text format, when they are asked for.

It reads grants, outbox and handoffs from the vault at that moment. It counts what only this process saw (refreshes,
rejected envelopes, the provider's latency) from the process's start, as Prometheus expects of counters. Labels are
states, reasons and grant ids: never names, accounts or any text that came from outside.

``prometheus_client`` writes the text and is imported at the first question, so that a device without metrics does not
load it. Source: Prometheus text format 0.0.4.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from token_relay.agents.ports import Now, Transaction
from token_relay.agents.records import CachedToken, CompanionHandoff, Grant, Outgoing, PhoneHandoff
from token_relay.provider.http import AnswerLost, Http, HttpRequest, HttpResponse, NotSent
from token_relay.service.status import grant_row

if TYPE_CHECKING:
    from prometheus_client.core import Metric

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
