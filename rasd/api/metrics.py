"""What `/metrics` tells, named after vLLM's metrics with our prefix; per-source counts are ours.

Every service has its own registry: replicas in one process, or tests, do not mix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from rasd.engine.api import Gauges, Statistics
from rasd.tree import SOURCES

CONTENT_TYPE: Final = "text/plain; version=1.0.0; charset=utf-8"

_SHORT: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_LONG: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 500.0)


class Metrics:
    """Counters and histograms of one service. Belongs to one event loop.

    Args:
        model: the served name, a label on everything.
        gauges: the engine's load.
        queued: how many requests wait for admission.
    """

    def __init__(self, model: str, gauges: Callable[[], Gauges], queued: Callable[[], int]) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._model = model
        self._drafts = self._counter("spec_decode_num_drafts", "Verified trees")
        self._draft_tokens = self._counter("spec_decode_num_draft_tokens", "Drafted nodes")
        self._accepted = self._counter("spec_decode_num_accepted_tokens", "Accepted nodes")
        self._drafted_by = self._by_source("spec_decode_num_draft_tokens_per_source", "Drafted")
        self._accepted_by = self._by_source("spec_decode_num_accepted_tokens_per_source", "Kept")
        self._preemptions = self._counter("num_preemptions", "Sequences set back")
        self._partial = self._counter("retrieval_partial", "Steps without some partition asked for")
        self._prompt = self._counter("prompt_tokens", "Tokens of admitted prompts")
        self._generated = self._counter("generation_tokens", "Tokens generated")
        self._success = self._labelled("request_success", "Choices finished", "finished_reason")
        self._failure = self._labelled("request_failure", "Requests not finished", "code")
        self._queue_time = self._histogram("request_queue_time_seconds", "Wait for slots", _LONG)
        self._first_token = self._histogram("time_to_first_token_seconds", "From arrival", _LONG)
        self._next_token = self._histogram("inter_token_latency_seconds", "Per token", _SHORT)
        self._latency = self._histogram("e2e_request_latency_seconds", "Whole requests", _LONG)
        self._gauge("num_requests_running", "Sequences with slots", lambda: gauges().running)
        self._gauge(
            "num_requests_waiting",
            "Sequences without slots, and requests that wait for admission",
            lambda: gauges().waiting + queued(),
        )
        self._gauge("kv_cache_usage_perc", "1 is full", lambda: _usage(gauges()))
        self._total("prefix_cache_queries", "Admitted tokens", lambda: gauges().prefix_queries)
        self._total(
            "prefix_cache_hits",
            "Admitted tokens whose keys and values were there",
            lambda: gauges().prefix_hits,
        )

    def admitted(self, prompt_tokens: int, waited_s: float) -> None:
        """A request left the queue."""
        self._prompt.inc(prompt_tokens)
        self._queue_time.observe(waited_s)

    def step(self, tokens: int, before: Statistics, now: Statistics) -> None:
        """A sequence gained ``tokens``; its totals went from ``before`` to ``now``."""
        _add(self._generated, tokens)
        _add(self._drafts, now.steps - before.steps)
        _add(self._draft_tokens, now.nodes - before.nodes)
        _add(self._accepted, now.accepted_nodes - before.accepted_nodes)
        _add(self._preemptions, now.preemptions - before.preemptions)
        _add(self._partial, now.partial_steps - before.partial_steps)
        for source in SOURCES:
            _add(self._drafted_by[source], now.drafted[source] - before.drafted[source])
            _add(self._accepted_by[source], now.accepted[source] - before.accepted[source])

    def first_token(self, seconds: float) -> None:
        """A choice's first text came, so long after its request."""
        self._first_token.observe(seconds)

    def next_tokens(self, tokens: int, seconds: float) -> None:
        """Further tokens came together, so long after those before."""
        for _ in range(tokens):
            self._next_token.observe(seconds / tokens)

    def finished(self, reason: str) -> None:
        """A choice ended with tokens."""
        self._success.labels(self._model, reason).inc()

    def failed(self, code: str) -> None:
        """A request ended otherwise."""
        self._failure.labels(self._model, code).inc()

    def completed(self, seconds: float) -> None:
        """All choices of a request ended."""
        self._latency.observe(seconds)

    def render(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self.registry)

    def _labelled(self, name: str, text: str, label: str) -> Counter:
        return Counter(f"rasd:{name}", text, ["model_name", label], registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        counter = Counter(f"rasd:{name}", text, ["model_name"], registry=self.registry)
        return counter.labels(self._model)

    def _by_source(self, name: str, text: str) -> dict[str, Counter]:
        counter = self._labelled(name, f"{text} nodes by source; a node may have two", "source")
        return {source: counter.labels(self._model, source) for source in SOURCES}

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(
            f"rasd:{name}", text, ["model_name"], registry=self.registry, buckets=buckets
        )
        return histogram.labels(self._model)

    def _total(self, name: str, text: str, read: Callable[[], float]) -> None:
        self.registry.register(_Total(f"rasd:{name}", text, self._model, read))

    def _gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        gauge = Gauge(f"rasd:{name}", text, ["model_name"], registry=self.registry)
        gauge.labels(self._model).set_function(read)


def _add(counter: Counter, amount: int) -> None:
    """Each addition takes a lock; most are of nothing."""
    if amount:
        counter.inc(amount)


class _Total(Collector):
    """A counter that the engine keeps; it begins again with another engine."""

    def __init__(self, name: str, text: str, model: str, read: Callable[[], float]) -> None:
        self._name, self._text, self._model, self._read = name, text, model, read

    def collect(self) -> Iterator[Metric]:
        """The count now."""
        family = CounterMetricFamily(self._name, self._text, labels=["model_name"])
        family.add_metric([self._model], self._read())
        yield family


def _usage(gauges: Gauges) -> float:
    return gauges.kv_slots_used / gauges.kv_slots if gauges.kv_slots else 0.0
