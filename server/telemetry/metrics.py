"""Every metric's name, in one registry of this process's own. The only module that knows Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from prompt_store.store import Tier
from server.engine.types import EngineState
from server.telemetry.traffic import TaskTraffic

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOKENS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384)


class Metrics:
    """What is measured, by the name it has under `softmux_`. Safe to use from any thread."""

    def __init__(self, num_task_series: int) -> None:
        self.registry = CollectorRegistry()
        self.traffic = TaskTraffic(num_task_series)
        self.registry.register(_TrafficCollector(self.traffic))
        self.requests = self._counter("requests", "Inference requests answered", "kind", "status")
        self.request_seconds = self._histogram(
            "request_seconds", "Time of a request by phase", SECONDS, "kind", "phase"
        )
        self.time_to_first_token = self._histogram("time_to_first_token_seconds", "Arrival to first token", SECONDS)
        self.inter_token = self._histogram("inter_token_seconds", "Between two tokens of a stream", SECONDS)
        self.step_rows = self._histogram("step_rows", "Rows in a step", ROWS)
        self.step_tokens = self._histogram("step_tokens", "Tokens in a step", TOKENS)
        self.step_distinct_tasks = self._histogram("step_distinct_tasks", "Tasks in a step", ROWS)
        self.step_seconds = self._histogram("step_seconds", "Time of a step", SECONDS)
        self.row_failures = self._counter("row_failures", "Rows that failed", "reason")
        self.rejections = self._counter("rejections", "Requests refused at the door or by the queue", "reason")
        self.prompt_evictions = self._counter("prompt_evictions", "Soft prompts taken off the device", "reason")
        self.prompt_loads = self._counter("prompt_loads", "Soft prompts made resident", "tier", "result")
        self.prompt_load_seconds = self._histogram("prompt_load_seconds", "Time to make one resident", SECONDS, "tier")
        self.publishes = self._counter("publishes", "Publishes answered", "result")
        self.alias_moves = self._counter("alias_moves", "Aliases moved through this replica")
        self.alias_rollbacks = self._counter("alias_rollbacks", "Aliases that a rollback rule took back here", "cause")
        self.store_up = Gauge("softmux_store_up", "Whether the store answered last time", registry=self.registry)
        self.store_stale_seconds = Gauge(
            "softmux_store_stale_seconds", "Since the store answered last, while it does not", registry=self.registry
        )

    def watch_engine(self, state: Callable[[], EngineState], tiers: Callable[[], Iterable[Tier]] = lambda: ()) -> None:
        """Report at each scrape the engine's state, and the tiers behind its device."""
        self.registry.register(_EngineCollector(state))
        self.registry.register(_TierCollector(state, tiers))

    def exposition(self) -> bytes:
        """Return every metric in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"softmux_{name}", help_text, labels, registry=self.registry)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"softmux_{name}", help_text, labels, buckets=buckets, registry=self.registry)


class StepMetrics:
    """The engine's StepObserver: called on the worker's thread after each step."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def step(self, num_rows: int, num_tokens: int, num_tasks: int, seconds: float) -> None:
        """Note one step."""
        self._metrics.step_rows.observe(num_rows)
        self._metrics.step_tokens.observe(num_tokens)
        self._metrics.step_distinct_tasks.observe(num_tasks)
        self._metrics.step_seconds.observe(seconds)

    def row_failed(self, reason: str) -> None:
        """Note one row that got an error."""
        self._metrics.row_failures.labels(reason).inc()

    def evicted(self, reason: str) -> None:
        """Note one soft prompt that left the device."""
        self._metrics.prompt_evictions.labels(reason).inc()


class TasksMetrics:
    """The tasks' TasksObserver."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def rolled_back(self, cause: str) -> None:
        """Note one alias that a rule took back."""
        self._metrics.alias_rollbacks.labels(cause).inc()


class _EngineCollector(Collector):
    def __init__(self, state: Callable[[], EngineState]) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        state = self._state()
        yield GaugeMetricFamily("softmux_num_requests_running", "Rows in the current step", state.num_running)
        yield GaugeMetricFamily("softmux_num_requests_waiting", "Rows waiting for a step", state.num_waiting)
        usage = state.kv_bytes_used / state.kv_bytes_budget if state.kv_bytes_budget else 0.0
        yield GaugeMetricFamily("softmux_kv_cache_usage_ratio", "Share of the KV memory in use", usage)


class _TierCollector(Collector):
    def __init__(self, state: Callable[[], EngineState], tiers: Callable[[], Iterable[Tier]]) -> None:
        self._state = state
        self._tiers = tiers

    def collect(self) -> Iterator[Metric]:
        state, tiers = self._state(), tuple(self._tiers())
        held = {"device": state.num_resident} | {tier.name: tier.num_held for tier in tiers}
        size = {"device": state.resident_bytes} | {tier.name: tier.size_bytes for tier in tiers}
        budget = {"device": state.resident_budget_bytes} | {tier.name: tier.budget_bytes for tier in tiers}
        yield _gauge("softmux_prompt_resident", "Soft prompts held", held)
        yield _gauge("softmux_prompt_resident_bytes", "Bytes of the soft prompts held", size)
        yield _gauge("softmux_prompt_budget_bytes", "Bytes of soft prompts that may be held", budget)
        reads = CounterMetricFamily(
            "softmux_prompt_tier_reads", "Loads that looked here for a prompt", labels=["tier", "result"]
        )
        evictions = CounterMetricFamily("softmux_prompt_tier_evictions", "Prompts that made room", labels=["tier"])
        for tier in tiers:
            reads.add_metric([tier.name, "hit"], tier.num_hits)
            reads.add_metric([tier.name, "miss"], tier.num_misses)
            evictions.add_metric([tier.name], tier.num_evictions)
        yield from (reads, evictions)


def _gauge(name: str, help_text: str, by_tier: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_text, labels=["tier"])
    for tier, value in by_tier.items():
        family.add_metric([tier], value)
    return family


class _TrafficCollector(Collector):
    def __init__(self, traffic: TaskTraffic) -> None:
        self._traffic = traffic

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily("softmux_task_requests", "Requests of the busiest tasks", labels=["task"])
        for task, count in self._traffic.counters().items():
            family.add_metric([task], count)
        yield family
