"""What operators see: the log and metrics."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from authz.settings import checks
from authz.settings.group import Group


class Telemetry(Group):
    """The log and metrics."""

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        checks.choice("debug", "info", "warning", "error"),
    ] = Field(
        "info",
        alias="LOG_LEVEL",
        description="debug, info, warning or error; `authz log-level` changes it until a restart",
    )
    log_format: Annotated[Literal["text", "json"], checks.choice("text", "json")] = Field(
        "text", alias="LOG_FORMAT", description="text or json, one line an event"
    )
    metrics_enabled: Annotated[bool, BeforeValidator(checks.boolean)] = Field(
        False,
        alias="METRICS_ENABLED",
        description="answer `GET /metrics`, to whoever can reach PORT, with Prometheus text",
    )
