"""The variables of OpenTelemetry: what they lead to, and what each says when it is wrong."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from authz import __version__
from authz.core.tracing import EVERY, Export, Sampler
from authz.settings import Settings, SettingsError
from authz.settings.tracing import export_of

ROOT = Path(__file__).parents[1]
JWT_SECRET = "a secret of the tests, with more than 32 characters"
HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
TRACES_HEADERS = "OTEL_EXPORTER_OTLP_TRACES_HEADERS"


def _settings(env: Mapping[str, str]) -> Settings:
    return Settings.from_env({"JWT_SECRET": JWT_SECRET, "AUTHZ_RUN_DIR": "/", **env})


def _export(**env: str) -> Export:
    return export_of(_settings({"OTEL_ENABLED": "true", **env}))


def test_what_is_said_by_default() -> None:
    assert _export() == Export(
        sampler=Sampler(EVERY, follows_parent=True),
        resource=(("service.name", "meshguard-gateway"), ("service.version", __version__)),
        variable="OTEL_EXPORTER_OTLP_ENDPOINT",
        is_tls=False,
        host="localhost",
        port=4318,
        path="/v1/traces",
    )


@pytest.mark.parametrize(
    ("general", "own", "shown", "path"),
    [
        ("http://otel:4318", "", "http://otel:4318/v1/traces", "/v1/traces"),
        ("http://otel:4318/", "", "http://otel:4318/v1/traces", "/v1/traces"),
        ("https://otel/base/", "", "https://otel:443/base/v1/traces", "/base/v1/traces"),
        ("http://[::1]:1", "", "http://[::1]:1/v1/traces", "/v1/traces"),
        ("http://otel", "http://own:9", "http://own:9/", "/"),
        ("http://otel", "http://own/here?key=k", "http://own:80/here", "/here?key=k"),
    ],
)
def test_where_traces_go(general: str, own: str, shown: str, path: str) -> None:
    export = _export(OTEL_EXPORTER_OTLP_ENDPOINT=general, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=own)
    assert (export.shown, export.path) == (shown, path)


@pytest.mark.parametrize(
    ("name", "arg", "sampler"),
    [
        ("always_on", "", Sampler(EVERY, False)),
        ("always_off", "", Sampler(0, False)),
        ("traceidratio", "0.5", Sampler(1 << 63, False)),
        ("parentbased_always_off", "", Sampler(0, True)),
        ("parentbased_traceidratio", "1e-3", Sampler(round(0.001 * EVERY), True)),
        ("parentbased_traceidratio", "", Sampler(EVERY, True)),
        # It has no argument, and so nobody looks at it.
        ("always_on", "nonsense", Sampler(EVERY, False)),
    ],
)
def test_the_samplers(name: str, arg: str, sampler: Sampler) -> None:
    assert _export(OTEL_TRACES_SAMPLER=name, OTEL_TRACES_SAMPLER_ARG=arg).sampler == sampler


def test_the_resource() -> None:
    attributes = "service.name=other,deployment.environment=caf%C3%A9, team = a "
    first = dict(_export(OTEL_RESOURCE_ATTRIBUTES=attributes).resource)
    assert first == {
        "service.name": "other",
        "service.version": __version__,
        "deployment.environment": "café",
        "team": "a",
    }
    named = _export(OTEL_RESOURCE_ATTRIBUTES=attributes, OTEL_SERVICE_NAME="mine")
    assert dict(named.resource)["service.name"] == "mine"


def test_headers_and_what_else_is_of_exports() -> None:
    export = _export(
        **{HEADERS: "X-Key=general", TRACES_HEADERS: "Authorization=Bearer%20abc,x-tenant=1"},
        OTEL_EXPORTER_OTLP_TIMEOUT="2000",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        OTEL_BSP_SCHEDULE_DELAY="100",
        OTEL_BSP_MAX_QUEUE_SIZE="16",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="16",
        OTEL_BSP_EXPORT_TIMEOUT="1500",
    )
    assert export.headers == (("authorization", "Bearer abc"), ("x-tenant", "1"))
    assert (export.timeout_s, export.delay_s, export.is_compressed) == (1.5, 0.1, True)
    assert (export.max_queue, export.max_batch) == (16, 16)
    assert "abc" not in repr(export)


@pytest.mark.parametrize("headers", [{HEADERS: "authorization=Bearer%20of-mine"}])
def test_headers_are_shown_nowhere(headers: dict[str, str]) -> None:
    assert "of-mine" not in repr(_settings({"OTEL_ENABLED": "true", **headers}))


BAD = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "otel:4318", "not a URL; write http://collector.example:4318"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:99999", "not a URL; write"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a b", "not a URL; write"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1", "not a URL; write"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://a", "not a URL; write"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:of-mine@a", "must not have a user or password"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "only http/protobuf is spoken here"),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli", "must be gzip or none"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "not a whole number from 1 to 600000"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", "not a whole number from 1 to 600000"),
    ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/c.pem", "a certificate and"),
    (HEADERS, "of-mine", "must be at most 64 of name=value"),
    (HEADERS, "a b=of-mine", "a name or value that no header can have"),
    (HEADERS, "a=of-mine%0D%0Ab: c", "a name or value that no header can have"),
    (HEADERS, "Content-Type=of-mine", "content-type is ours to say"),
    (HEADERS, ",".join(f"a{n}=of-mine" for n in range(65)), "must be at most 64"),
    ("OTEL_TRACES_SAMPLER", "jaeger_remote", "must be one of always_on, always_off"),
    ("OTEL_RESOURCE_ATTRIBUTES", "=of-mine", "must be at most 64 of name=value"),
    ("OTEL_BSP_SCHEDULE_DELAY", "-1", "not a whole number from 1 to 600000"),
    ("OTEL_BSP_EXPORT_TIMEOUT", "x", "not a whole number from 1 to 600000"),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "1", "not a whole number from 16 to 65536"),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096", "not a whole number from 1 to 2048"),
    ("OTEL_TRACES_EXPORTER", "zipkin", "must be otlp or none"),
]


@pytest.mark.parametrize(("name", "value", "said"), BAD)
def test_what_is_wrong_is_a_sentence_where_it_counts(name: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError) as error:
        _export(**{name: value})
    [problem] = error.value.problems
    assert problem.startswith(f"{name}: {said}")
    assert "of-mine" not in problem
    # A platform sets these for every container.
    assert not _settings({name: value}).is_traced


@pytest.mark.parametrize("arg", ["2", "-0.1", "nan", "inf", "half", "1e400"])
def test_a_share_is_a_number_from_0_to_1(arg: str) -> None:
    with pytest.raises(SettingsError) as error:
        _export(OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG=arg)
    assert error.value.problems == ["OTEL_TRACES_SAMPLER_ARG: not a number from 0 to 1"]


@pytest.mark.parametrize(
    ("env", "is_traced"),
    [
        ({}, False),
        ({"OTEL_ENABLED": "true"}, True),
        ({"OTEL_ENABLED": "true", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_ENABLED": "true", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_what_turns_them_off(env: dict[str, str], is_traced: bool) -> None:
    assert _settings(env).is_traced is is_traced


_LOADED = """
import contextlib, sys
from authz.settings import Settings
from authz.wiring import extras
tracer = extras.tracer(Settings.from_env({env!r}), contextlib.AsyncExitStack())
print(tracer is not None)
print(*sorted(name for name in sys.modules if name.startswith((
    "authz.edges.tracing", "authz.core.otlp", "opentelemetry.sdk", "opentelemetry.exporter",
    "opentelemetry.proto",
))))
"""


@pytest.mark.parametrize("is_on", [False, True])
def test_what_is_off_is_not_imported(is_on: bool) -> None:
    env = {"JWT_SECRET": JWT_SECRET, "AUTHZ_RUN_DIR": "/", "OTEL_ENABLED": str(is_on)}
    done = subprocess.run(
        [sys.executable, "-c", _LOADED.format(env=env)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    said, names = done.stdout.splitlines()
    assert said == str(is_on)
    # The SDK is what the tests compare with; a sidecar has none of it either way.
    assert "opentelemetry" not in names
    assert ("authz.edges.tracing" in names) is is_on
