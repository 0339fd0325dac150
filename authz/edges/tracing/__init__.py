"""Traces of decisions (OTEL_ENABLED): what is sampled, what is told of it, and where it is sent.

- `tracer` is what the gate knows; `exporter` is a thread with a bounded queue; `collector` speaks
  OTLP/HTTP. What spans are made of is pure (`core/otlp`).
- Imported only where traces are on.
"""
