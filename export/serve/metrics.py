"""What is counted, under the names that text-embeddings-inference gives it, for Prometheus; and how many workers are.

Of several workers each keeps files in one folder, which prometheus_client joins: whichever worker is asked, the answer
is that of all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # in the environment of workers
WORKER = "worker_"  # begins the name of each one's file there
SECONDS = [1e-5 * 1.5**power for power in range(1, 36)]
TOKENS = [2**power for power in range(21)]
PHASES = ("duration", "tokenization_duration", "queue_duration", "inference_duration")


class Metrics:
    """Count the requests of one server."""

    def __init__(self) -> None:
        disable_created_metrics()
        self._registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self._registry)

        def histogram(name: str, text: str, buckets: list[float]) -> Histogram:
            return Histogram(name, text, buckets=buckets, registry=self._registry)

        self.request_count = counter("te_request_count", "requests for inference", "method")
        self.request_success = counter("te_request_success", "those that were answered", "method")
        self.request_failure = counter("te_request_failure", "those that were refused, and why", "err")
        self.tokens = counter("spinn_token_count", "tokens of the inputs")
        self.unknown = counter("spinn_unknown_token_count", "those that the model does not know")
        kinds = ("embed", "predict", "parse")
        self.count = {kind: counter(f"te_{kind}_count", "inputs") for kind in kinds}
        self.success = {kind: counter(f"te_{kind}_success", "inputs that were answered") for kind in kinds}
        self.phases = [histogram(f"te_request_{phase}", "seconds", SECONDS) for phase in PHASES]
        self.input_length = histogram("te_request_input_length", "tokens of an input", TOKENS)
        self.batch_size = histogram("te_batch_next_size", "requests of a batch", TOKENS[:13])
        self.batch_tokens = histogram("te_batch_next_tokens", "tokens of a batch", TOKENS)

    def watch(self, name: str, text: str, count: Callable[[], int]) -> None:
        """Count something whenever Prometheus asks; of several workers, which cannot ask each other, nothing."""
        if FOLDER not in os.environ:
            Gauge(name, text, registry=self._registry).set_function(count)

    def on_batch(self, n_jobs: int, n_tokens: int) -> None:
        """Count a batch."""
        self.batch_size.observe(n_jobs)
        self.batch_tokens.observe(n_tokens)

    def exposition(self) -> bytes:
        """Return the text for Prometheus. Its counters end in _total by convention, which TEI's do not."""
        registry = self._registry
        if FOLDER in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry).replace(b"_total", b"")


def announce() -> None:
    """Say to the other workers that this one is ready."""
    if FOLDER in os.environ:
        (Path(os.environ[FOLDER]) / f"{WORKER}{os.getpid()}").touch()


def census() -> dict[str, int]:
    """Count the workers that are ready, and those that died."""
    if FOLDER not in os.environ:
        return {"workers": 1, "died": 0}
    pids = [int(path.name.removeprefix(WORKER)) for path in Path(os.environ[FOLDER]).glob(f"{WORKER}*")]
    n_alive = sum(map(_is_alive, pids))
    return {"workers": n_alive, "died": len(pids) - n_alive}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # the latter of another's, which took its number
        return False
    return True
