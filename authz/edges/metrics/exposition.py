"""What the client library writes: the figures of one scrape, as text.

The text is Prometheus' or OpenMetrics', by what is asked for, and besides our own families it has
the process's (`process_*`) and the garbage collector's (`python_gc_*`) as the library names them.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from authz.edges.metrics.catalogue import FAMILIES, Family, Kind
from authz.edges.metrics.counts import BUCKETS, Shape
from authz.edges.metrics.sources import Deferred, Read

_BOUNDS: Final = (*map(str, BUCKETS), "+Inf")


def written(read: Mapping[str, Read], accept: str) -> tuple[bytes, str]:
    """The figures as text, and its content type. For a thread: nothing of the loop's is touched.

    Args:
        read: what was read, by family.
        accept: the header of whoever asks.
    """
    registry = CollectorRegistry()
    registry.register(_Figures(read))
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):
        # Versions that are no numbers: the library compares them.
        encode, content_type = choose_encoder("")
    return encode(registry), content_type


class _Figures(Collector):
    def __init__(self, read: Mapping[str, Read]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not collect."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The families that somebody reads, in the order of the catalogue."""
        for name, family in FAMILIES.items():
            found = self._read.get(name)
            if found is not None:
                yield _metric(family, found)


def _metric(family: Family, found: Read) -> Metric:
    if isinstance(found, Shape):
        histogram = HistogramMetricFamily(family.name, family.help)
        total, buckets = 0, []
        for bound, count in zip(_BOUNDS, found.counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        histogram.add_metric((), buckets, found.sum)
        return histogram
    values = found() if isinstance(found, Deferred) else found
    made = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
    metric = made(family.name, family.help, labels=family.labels)
    for labels, value in values.items():
        metric.add_metric(labels, value)
    return metric
