"""The lines whose subject this version does not have: synchronisation.
"""The line whose subject this version does not have: traces.

Each is one function, to be filled in when there is something to look at. Until then they warn, and
say what can be done by hand.
"""

from collections.abc import Iterator

from authz.cli.doctor.facts import Facts
from authz.cli.doctor.finding import Finding, warned


def disconnected(facts: Facts) -> Iterator[Finding]:
    """Whether policies and audit data are brought in and out."""
    del facts
    yield warned(
        "decisions need no network; this version does not synchronise policies or audit data",
        "bring policies in by ConfigMap or volume, and copy audit.db (it has every row older than"
        " two seconds) or `authz audit export` out by a CronJob",
def otel(facts: Facts) -> Iterator[Finding]:
    """Whether traces are exported."""
    enabled = facts.inside is not None and facts.inside.otel_enabled
    state = "OTEL_ENABLED is set, and this version" if enabled else "this version"
    yield warned(
        f"{state} exports no traces yet",
        "follow `authz audit tail`, /metrics and the log, and join them by trace id",
    )
