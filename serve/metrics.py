"""What Prometheus reads at /metrics."""

import math
from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
CERTAIN = 1.959964  # standard deviations of a 95 % interval

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody reads


class RequestMetrics:
    """What is counted of any request, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "tweets_http_requests_total", "Requests answered", ["method", "route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "tweets_http_request_duration_seconds",
            "From the first byte of a request to the last of its answer",
            ["route", "status"],
            buckets=SECONDS,
            registry=registry,
        )
        self.in_progress = Gauge("tweets_http_requests_in_progress", "Requests being answered", registry=registry)
        self.refused = Counter(
            "tweets_refused_requests_total", "Requests refused, by what they ran into", ["reason"], registry=registry
        )
        self.dropped_logs = Counter(
            "tweets_dropped_log_records_total", "Log records that nobody took in time", registry=registry
        )


class Metrics(RequestMetrics):
    """The service's counters, gauges and histograms."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        super().__init__()
        registry = self.registry
        Gauge("tweets_queue_texts", "Texts that wait for a batch", registry=registry).set_function(waiting)
        self.batch_size = Histogram(
            "tweets_batch_texts", "Texts in a batch", buckets=(1, 2, 4, 8, 16, 32, 64, 128), registry=registry
        )
        self.batch_seconds = Histogram(
            "tweets_batch_duration_seconds", "Computing a batch", buckets=SECONDS, registry=registry
        )
        self.predictions = Counter(
            "tweets_predictions_total", "Texts labelled, by their label", ["label"], registry=registry
        )
        self.reloads = Counter("tweets_model_reloads_total", "Reloads of the model", ["outcome"], registry=registry)
        for outcome in ("done", "failed"):  # there from the start: Prometheus sees no increase in what begins at 1
            self.reloads.labels(outcome)
        self.last_reload = Gauge(
            "tweets_model_last_reload_successful", "Did the latest reload give a model? 1 before any", registry=registry
        )
        self.last_reload.set(1)
        self.model = Info("tweets_model", "The model that is served", registry=registry)
        self.model_time = Gauge(
            "tweets_model_timestamp_seconds", "When the model's folder was written", registry=registry
        )
        self.collected_rows = Counter("tweets_collected_rows_total", "Predictions kept", registry=registry)
        self.waiting_rows = Gauge(
            "tweets_waiting_rows", "Predictions that could not be kept yet, as on a full disk", registry=registry
        )
        self.collection_failing = Gauge(
            "tweets_collection_failing",
            "Can predictions not be kept, as on a full disk or in a damaged file?",
            registry=registry,
        )
        self.lost_rows = Counter(
            "tweets_lost_rows_total", "Predictions that should have been kept or looked at", registry=registry
        )
        self.window_texts = Gauge(
            "tweets_drift_window_texts", "The latest texts, in which drift is looked for", registry=registry
        )
        self.drift = Gauge(
            "tweets_drift_statistic", "How far the window is from the reference", ["feature"], registry=registry
        )
        self.drift_threshold = Gauge(
            "tweets_drift_threshold", "Above it, the statistic tells drift", ["feature"], registry=registry
        )
        self.labelled_texts = Gauge(
            "tweets_labelled_texts", "Predictions of this model whose true label is known", registry=registry
        )
        self.accuracy, self.accuracy_low, self.accuracy_high = (
            Gauge(f"tweets_live_accuracy{bound}", f"Of those predictions{what}", registry=registry)
            for bound, what in (("", ""), ("_low", ": where its 95 % interval begins"), ("_high", ": where it ends"))
        )
        self.tell_accuracy(0, 0)

    def tell_accuracy(self, right: int, labelled: int) -> None:
        """Set the gauges of the live accuracy: how many predictions are right, of those whose label is known."""
        self.labelled_texts.set(labelled)
        self.accuracy.set(right / labelled if labelled else math.nan)
        low, high = wilson(right, labelled)
        self.accuracy_low.set(low)
        self.accuracy_high.set(high)


def wilson(right: int, rows: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, `right` of `rows`; all of [0, 1] where there are none.

    Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 1927.
    """
    if not rows:
        return 0.0, 1.0
    share, square = right / rows, CERTAIN**2 / rows
    middle = (share + square / 2) / (1 + square)
    half = CERTAIN * math.sqrt(share * (1 - share) / rows + square / (4 * rows)) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)
