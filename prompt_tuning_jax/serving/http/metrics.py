"""What Prometheus is told: requests by route, tokens, latencies, and how the engine is doing."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_PREFIX = "prompt_tuning"
# The engine's statistics that only grow; the others are as they are now.
_GROW = {"requests", "tokens", "steps", "step_slots", "reads", "read_rows", "read_places"}
_GROW |= {"failures"}
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The numbers of one server, apart from those of others in the process.

    Args:
      statistics: the engine's, asked for whenever the page is.
    """

    def __init__(self, statistics: Callable[[], Mapping[str, float]]):
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            f"{_PREFIX}_http_requests",
            "Requests answered.",
            ("route", "method", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            f"{_PREFIX}_http_request_seconds",
            "From a request's first byte to its answer's last.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_token = Histogram(
            f"{_PREFIX}_first_token_seconds",
            "From a completion's request to its first token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.read = Counter(f"{_PREFIX}_prompt_tokens", "Tokens of texts read.", registry=registry)
        self.written = Counter(
            f"{_PREFIX}_completion_tokens", "Tokens of texts answered.", registry=registry
        )
        registry.register(_OfEngine(statistics))

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Counts a request."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)


class _OfEngine(Collector):
    def __init__(self, statistics: Callable[[], Mapping[str, float]]):
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        for name, value in self._statistics().items():
            family = CounterMetricFamily if name in _GROW else GaugeMetricFamily
            told = f"The engine's {name.replace('_', ' ')}."
            yield family(f"{_PREFIX}_engine_{name}", told, value=value)
