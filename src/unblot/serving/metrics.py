"""What a service counts, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TIMES = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The counts of one service, in a registry of its own. waiting: the present length of the queue."""

    def __init__(self, waiting: Callable[[], int]):
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter("unblot_requests", "requests answered", ["path", "status"], registry=registry)
        self.pictures = Counter("unblot_pictures", "pictures made", ["model"], registry=registry)
        self.seconds = Histogram(
            "unblot_request_seconds", "time to an answer", ["path"], registry=registry, buckets=TIMES
        )
        self.batch = Histogram("unblot_batch_pictures", "pictures computed together", registry=registry, buckets=SIZES)
        self.waiting = Gauge("unblot_waiting_requests", "requests that wait", registry=registry)
        self.waiting.set_function(waiting)
