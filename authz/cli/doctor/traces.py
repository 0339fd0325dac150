"""Whether traces are exported, and whether the collector takes them."""

from collections.abc import Iterator
from typing import Final

from authz.cli.doctor.facts import Facts
from authz.cli.doctor.finding import Finding, passed, skipped, warned
from authz.settings import Settings

#: Seconds that the collector gets to answer.
PATIENCE_S: Final = 5.0


def refusal(settings: Settings) -> str | None:
    """Why the collector takes no traces, empty where it does; None where nothing is exported.

    It is sent an export of no spans, which every collector takes (OTLP, "Full Success").
    """
    if not settings.is_traced:
        return None
    from authz.edges.tracing.collector import Collector, Failure
    from authz.settings.tracing import export_of

    export = export_of(settings)
    try:
        collector = Collector(export, "authz doctor")
    except ValueError as error:
        return f"{export.variable}: {error}"
    try:
        collector.send(b"", PATIENCE_S)
    except Failure as failure:
        return f"{export.variable}: {export.shown} takes no traces: {failure}"
    finally:
        collector.close()
    return ""


def check(facts: Facts) -> Iterator[Finding]:
    """Whether traces are exported, and arrive."""
    if facts.inside is None:
        yield skipped()
    elif facts.inside.traces is None:
        yield warned(
            "no traces are exported",
            "set OTEL_ENABLED=true and OTEL_EXPORTER_OTLP_ENDPOINT to your collector's, or follow"
            " `authz audit tail`, /metrics and the log",
        )
    elif facts.inside.traces:
        yield warned(
            facts.inside.traces,
            "see that the collector listens there for OTLP/HTTP, and takes what"
            " OTEL_EXPORTER_OTLP_HEADERS has; decisions go on without",
        )
    else:
        yield passed("the collector takes traces")
