"""docs/observability.md, "Traces": its spans and attributes are those that are sent, no more and no
fewer, and what it says to set is what the settings know."""

import re
from pathlib import Path
from typing import Final

from authz.core import otlp
from authz.core.errors import AuditUnavailable
from authz.core.tracing import EVERY, Sampler
from authz.settings import Settings, described
from authz.settings.tracing import export_of
from tests import builders
from tests.traced import World, delegated

PAGE: Final = (Path(__file__).parents[1] / "docs" / "observability.md").read_text()
TRACES: Final = re.split(
    r"^## ", PAGE.partition("\n## Traces\n")[2], maxsplit=1, flags=re.MULTILINE
)[0]


def _table() -> dict[str, set[str]]:
    """The attributes of each span, by its name."""
    rows = re.findall(r"^\| `(meshguard\.[\w.]+)` \|.*\|.*\| (.*) \|$", TRACES, re.MULTILINE)
    return {name: set(re.findall(r"`([a-z_]+\.[a-z_.]+)`", text)) for name, text in rows}


def _sent() -> dict[str, set[str]]:
    """The same of decisions of every kind."""
    world = World()
    world.ask(method="POST")
    world.ask(x_meshguard_delegation=delegated(world))
    broken = World(recorder=builders.MemoryRecorder(AuditUnavailable("the disk is full")))
    broken.ask()
    found: dict[str, set[str]] = {}
    for span in world.sink.spans() + broken.sink.spans():
        name = "meshguard.stage.NAME" if span.name.startswith(otlp.STAGE) else span.name
        found.setdefault(name, set()).update(span.attributes)
    return found


def test_the_table_of_spans() -> None:
    assert _table() == _sent()


def test_what_it_says_to_set() -> None:
    block = TRACES.partition("```\n")[2].partition("```")[0]
    env = dict(line.split("=", 1) for line in block.splitlines())
    settings = Settings.from_env({**env, "JWT_SECRET": "-" * 32, "AUTHZ_RUN_DIR": "/"})
    export = export_of(settings)
    assert export.shown == "http://otel-collector:4318/v1/traces"
    assert export.sampler == Sampler(round(0.1 * EVERY), follows_parent=True)
    known = " ".join(f"{one.name} {one.help}" for one in described())
    assert all(name in known for name in re.findall(r"\bOTEL_[A-Z_]+\b", TRACES))


def test_the_figures_of_texts() -> None:
    assert f"at most {otlp.MAX_TEXT:,} characters" in TRACES
