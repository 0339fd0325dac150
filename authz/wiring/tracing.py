"""Traces, as the settings have them: what samples, what sends, and when it ends."""

import logging
import secrets
import time
from contextlib import AsyncExitStack
from typing import Final

from authz import __version__
from authz.edges.tracing.collector import Collector
from authz.edges.tracing.exporter import Exporter
from authz.edges.tracing.tracer import Tracer
from authz.exits import Exit
from authz.run_dir import StartError
from authz.settings import Settings
from authz.settings.tracing import export_of

#: Seconds for the last spans, once all calls are answered: with `DRAIN_S` before it this stays
#: below what a supervisor waits.
FLUSH_S: Final = 1.0

log = logging.getLogger(__name__)


def tracer(settings: Settings, stack: AsyncExitStack) -> Tracer:
    """What the gate has told; when the stack ends, the last spans are sent.

    Raises:
        StartError: its certificates cannot be used.
    """
    export = export_of(settings)
    try:
        collector = Collector(export, f"authz/{__version__}")
    except ValueError as error:
        said = f"OTEL_EXPORTER_OTLP_CERTIFICATE or _CLIENT_CERTIFICATE: {error}"
        raise StartError(said, Exit.KEY_FILE) from None
    exporter = Exporter(export, collector, __version__, secrets.randbits(128))
    exporter.start()
    stack.callback(exporter.stop, FLUSH_S)
    log.info("%s: traces go to %s", export.variable, export.shown)
    return Tracer(export.sampler, exporter, time.perf_counter_ns, secrets.randbits(128))


def exporter_of(made: object) -> Exporter:
    """What a tracer that was made here hands its traces to."""
    assert isinstance(made, Tracer)
    assert isinstance(made.sink, Exporter)
    return made.sink
