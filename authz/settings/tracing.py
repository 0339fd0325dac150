"""Traces: the variables of OpenTelemetry, read as its specification has them.

- They are looked at where OTEL_ENABLED says so, and nowhere else: a platform sets them for every
  container, and one that exports nothing has no reason not to start.
- A `_TRACES_` variable stands before its general one. What cannot be used is a sentence at the
  start; headers may hold a secret, and no sentence has a word of them.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Final
from urllib.parse import unquote, urlsplit

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr

from authz import __version__
from authz.core.tracing import EVERY, Export, Sampler
from authz.settings import checks
from authz.settings.group import Group

_DEFAULT_ENDPOINT: Final = "http://localhost:4318"
#: Path below a general endpoint (OTLP/HTTP, "Endpoint URLs").
_TRACES_PATH: Final = "/v1/traces"
#: What the samplers are made of: what becomes of a trace that begins here, and whether the
#: caller's choice counts. A ratio is its argument's.
_SAMPLERS: Final = {
    "always_on": (1.0, False),
    "always_off": (0.0, False),
    "traceidratio": (None, False),
    "parentbased_always_on": (1.0, True),
    "parentbased_always_off": (0.0, True),
    "parentbased_traceidratio": (None, True),
}
#: RFC 9110 §5.6.2.
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: Headers that are ours to say.
_OUR_HEADERS: Final = frozenset(
    ("connection", "content-encoding", "content-length", "content-type", "host",
     "transfer-encoding", "user-agent")
)  # fmt: skip
#: Attributes of a resource, and headers, at most; both go out with every batch.
_MAX_PAIRS: Final = 64
#: Milliseconds, and spans, of the OTEL_BSP_* variables at most.
_MAX_MS: Final = 600_000
_MAX_SPANS: Final = 65_536
#: Spans that have to fit: those of one decision.
_MIN_QUEUE: Final = 16


def _either(name: str) -> AliasChoices:
    return AliasChoices(f"OTEL_EXPORTER_OTLP_TRACES_{name}", f"OTEL_EXPORTER_OTLP_{name}")


class Tracing(Group):
    """Traces, as they are written. `export_of` reads them."""

    otel_enabled: Annotated[bool, BeforeValidator(checks.boolean)] = Field(
        False, alias="OTEL_ENABLED", description="export traces of decisions"
    )
    otel_endpoint: str = Field(
        _DEFAULT_ENDPOINT,
        alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="OTLP/HTTP collector; traces go to /v1/traces below it",
    )
    otel_service_name: str = Field(
        "meshguard-gateway", alias="OTEL_SERVICE_NAME", description="service.name of traces"
    )
    otel_traces_endpoint: str = Field(
        "",
        alias="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        description="the whole URL that traces go to, instead of OTEL_EXPORTER_OTLP_ENDPOINT",
    )
    otel_headers: SecretStr = Field(
        SecretStr(""),
        validation_alias=_either("HEADERS"),
        description="headers of each export, `name=value,name=value`, percent-encoded; or"
        " OTEL_EXPORTER_OTLP_HEADERS",
    )
    otel_protocol: str = Field(
        "http/protobuf",
        validation_alias=_either("PROTOCOL"),
        description="http/protobuf, the only one that is spoken; or OTEL_EXPORTER_OTLP_PROTOCOL",
    )
    otel_timeout: str = Field(
        "10000",
        validation_alias=_either("TIMEOUT"),
        description="milliseconds that an export may take with its repetitions, 1 to 600000; or"
        " OTEL_EXPORTER_OTLP_TIMEOUT",
    )
    otel_compression: str = Field(
        "none",
        validation_alias=_either("COMPRESSION"),
        description="gzip or none; or OTEL_EXPORTER_OTLP_COMPRESSION",
    )
    otel_certificate: str = Field(
        "",
        validation_alias=_either("CERTIFICATE"),
        description="file of the certificates to trust for an https collector, the system's when"
        " unset; or OTEL_EXPORTER_OTLP_CERTIFICATE",
    )
    otel_client_certificate: str = Field(
        "",
        validation_alias=_either("CLIENT_CERTIFICATE"),
        description="file of the certificate to show to an https collector; or"
        " OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    )
    otel_client_key: str = Field(
        "",
        validation_alias=_either("CLIENT_KEY"),
        description="file of its key; or OTEL_EXPORTER_OTLP_CLIENT_KEY",
    )
    otel_sampler: str = Field(
        "parentbased_always_on",
        alias="OTEL_TRACES_SAMPLER",
        description="always_on, always_off, traceidratio, or parentbased_ before one of these",
    )
    otel_sampler_arg: str = Field(
        "",
        alias="OTEL_TRACES_SAMPLER_ARG",
        description="share of traces that a traceidratio sampler takes, 0 to 1; all when unset",
    )
    otel_resource_attributes: str = Field(
        "",
        alias="OTEL_RESOURCE_ATTRIBUTES",
        description="attributes of the resource, `name=value,name=value`, percent-encoded",
    )
    otel_schedule_delay: str = Field(
        "5000",
        alias="OTEL_BSP_SCHEDULE_DELAY",
        description="milliseconds that spans wait for others at most, 1 to 600000",
    )
    otel_export_timeout: str = Field(
        "30000",
        alias="OTEL_BSP_EXPORT_TIMEOUT",
        description="milliseconds that an export may take besides OTEL_EXPORTER_OTLP_TIMEOUT, the"
        " shorter counts",
    )
    otel_max_queue: str = Field(
        "2048",
        alias="OTEL_BSP_MAX_QUEUE_SIZE",
        description="spans that wait at most, 16 to 65536; there are about 12 of a decision",
    )
    otel_max_batch: str = Field(
        "512",
        alias="OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        description="spans that are sent together, 1 to OTEL_BSP_MAX_QUEUE_SIZE",
    )
    otel_exporter: str = Field(
        "otlp", alias="OTEL_TRACES_EXPORTER", description="otlp, or none to export nothing"
    )
    otel_sdk_disabled: str = Field(
        "false",
        alias="OTEL_SDK_DISABLED",
        description="true turns traces off, whatever OTEL_ENABLED says",
    )

    @property
    def is_traced(self) -> bool:
        """Whether traces are exported."""
        is_disabled = self.otel_sdk_disabled.strip().lower() == "true"
        return self.otel_enabled and not is_disabled and self.otel_exporter.strip() != "none"


class _Reader:
    """Reads them, and keeps what is wrong."""

    def __init__(self, given: Tracing) -> None:
        self._given = given
        self.problems: list[str] = []

    def export(self) -> Export:
        given = self._given
        variable, is_tls, host, port, path = self._where()
        self._one_of(given.otel_exporter, "OTEL_TRACES_EXPORTER", ("otlp", "none"))
        protocol = given.otel_protocol.strip()
        if protocol != "http/protobuf":
            self.problems.append(
                "OTEL_EXPORTER_OTLP_PROTOCOL: only http/protobuf is spoken here; set it so, and"
                f" {variable} to where the collector listens for that (4318 by custom)"
            )
        compression = self._one_of(
            given.otel_compression, "OTEL_EXPORTER_OTLP_COMPRESSION", ("gzip", "none")
        )
        cert, key = given.otel_client_certificate, given.otel_client_key
        if bool(cert) is not bool(key):
            self.problems.append(
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE: a certificate and"
                " OTEL_EXPORTER_OTLP_CLIENT_KEY go together"
            )
        queue = self._number("OTEL_BSP_MAX_QUEUE_SIZE", given.otel_max_queue, _MIN_QUEUE,
                             _MAX_SPANS)  # fmt: skip
        most_ms = self._number("OTEL_BSP_EXPORT_TIMEOUT", given.otel_export_timeout, 1, _MAX_MS)
        timeout_ms = self._number("OTEL_EXPORTER_OTLP_TIMEOUT", given.otel_timeout, 1, _MAX_MS)
        delay_ms = self._number("OTEL_BSP_SCHEDULE_DELAY", given.otel_schedule_delay, 1, _MAX_MS)
        return Export(
            sampler=self._sampler(),
            resource=self._resource(),
            variable=variable,
            is_tls=is_tls,
            host=host,
            port=port,
            path=path,
            headers=tuple(self._headers()),
            is_compressed=compression == "gzip",
            ca_file=given.otel_certificate,
            cert_file=cert,
            key_file=key,
            timeout_s=min(timeout_ms, most_ms) / 1000,
            delay_s=delay_ms / 1000,
            max_queue=queue,
            max_batch=self._max_batch(queue),
        )

    def _max_batch(self, queue: int) -> int:
        given = self._given
        most = int(given.otel_max_batch) if "otel_max_batch" not in given.model_fields_set else 0
        if most:
            return min(most, queue)
        return self._number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", given.otel_max_batch, 1, queue)

    def _where(self) -> tuple[str, bool, str, int, str]:
        given = self._given
        variable, url = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", given.otel_traces_endpoint.strip()
        if not url:
            variable, url = "OTEL_EXPORTER_OTLP_ENDPOINT", given.otel_endpoint.strip()
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            parts, host, port = urlsplit(""), "", None
        is_tls = parts.scheme == "https"
        if (
            parts.scheme not in ("http", "https")
            or not host
            or port == 0
            or not re.fullmatch(r"[\x21-\x7e]+", url)
        ):
            self.problems.append(f"{variable}: not a URL; write http://collector.example:4318")
        elif "@" in parts.netloc:
            self.problems.append(
                f"{variable}: must not have a user or password; OTEL_EXPORTER_OTLP_HEADERS is for"
                " credentials"
            )
        path = parts.path
        if variable == "OTEL_EXPORTER_OTLP_ENDPOINT":
            path = path.rstrip("/") + _TRACES_PATH
        if parts.query:
            path = f"{path}?{parts.query}"
        path = path if path.startswith("/") else f"/{path}"
        return variable, is_tls, host, port or (443 if is_tls else 80), path

    def _sampler(self) -> Sampler:
        given = self._given
        named = given.otel_sampler.strip().lower()
        if named not in _SAMPLERS:
            self.problems.append(f"OTEL_TRACES_SAMPLER: must be one of {', '.join(_SAMPLERS)}")
            return Sampler(0, follows_parent=False)
        share, follows = _SAMPLERS[named]
        if share is None:
            share = self._share(given.otel_sampler_arg.strip() or "1")
        return Sampler(round(share * EVERY), follows)

    def _share(self, text: str) -> float:
        if re.fullmatch(r"[0-9]{0,3}\.?[0-9]{1,18}(?:[eE]-?[0-9]{1,3})?", text, re.ASCII):
            share = float(text)
            if 0 <= share <= 1:
                return share
        self.problems.append("OTEL_TRACES_SAMPLER_ARG: not a number from 0 to 1")
        return 0.0

    def _resource(self) -> tuple[tuple[str, str], ...]:
        """Its attributes; what is said by name beats what is said among others."""
        given = self._given
        found = {"service.name": given.otel_service_name, "service.version": __version__}
        text, said = given.otel_resource_attributes, "OTEL_RESOURCE_ATTRIBUTES"
        is_named = "otel_service_name" in given.model_fields_set
        pairs = self._pairs(said, text)
        found |= {name: value for name, value in pairs if name != "service.name" or not is_named}
        return tuple(found.items())

    def _headers(self) -> Iterator[tuple[str, str]]:
        said = "OTEL_EXPORTER_OTLP_HEADERS"
        for name, value in self._pairs(said, self._given.otel_headers.get_secret_value()):
            if not _TOKEN.fullmatch(name) or not value.isprintable() or not value.isascii():
                self.problems.append(f"{said}: a name or value that no header can have")
            elif name.lower() in _OUR_HEADERS:
                self.problems.append(f"{said}: {name.lower()} is ours to say")
            else:
                yield name.lower(), value

    def _pairs(self, variable: str, text: str) -> list[tuple[str, str]]:
        """`name=value` with commas between them, percent-encoded (as W3C Baggage)."""
        parts = [part.strip() for part in text.split(",") if part.strip()]
        pairs = [part.partition("=") for part in parts]
        if len(parts) > _MAX_PAIRS or any(not name.strip() or not is_ for name, is_, _ in pairs):
            self.problems.append(
                f"{variable}: must be at most {_MAX_PAIRS} of name=value, with commas between them"
            )
            return []
        return [(unquote(name.strip()), unquote(value.strip())) for name, _, value in pairs]

    def _one_of(self, text: str, variable: str, words: tuple[str, ...]) -> str:
        word = text.strip().lower()
        if word not in words:
            self.problems.append(f"{variable}: must be {' or '.join(words)}")
        return word

    def _number(self, variable: str, text: str, low: int, high: int) -> int:
        if re.fullmatch(r"[0-9]{1,9}", text.strip(), re.ASCII) and low <= int(text) <= high:
            return int(text)
        self.problems.append(f"{variable}: not a whole number from {low} to {high}")
        return low


def tracing_problems(given: Tracing) -> list[str]:
    """What is wrong with the variables, where they count."""
    if not given.is_traced:
        return []
    reader = _Reader(given)
    reader.export()
    return list(dict.fromkeys(reader.problems))


def export_of(given: Tracing) -> Export:
    """Where traces go, and how, of settings without `tracing_problems`."""
    return _Reader(given).export()
