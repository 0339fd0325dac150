"""How much the service says (`edges/http/log_level.py`)."""

from typing import Annotated, Final, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from authz.edges.http.log_level import NewLevel
from authz.reference.operation import CLOSED, Operation, Time

Level = Literal["debug", "info", "warning", "error"]


@with_config(CLOSED)
class LevelNow(TypedDict):
    """How much is said now."""

    level: Level
    atStart: Annotated[Level, Field(description="LOG_LEVEL, which counts again after a restart.")]
    since: Time
    note: NotRequired[Annotated[str, Field(description="How long it lasts, and who was not told.")]]


_LEVEL: Final = {"level": "debug", "atStart": "info", "since": "2026-01-31T12:00:00.000000Z"}

OPERATIONS: Final = (
    Operation(
        "GET",
        "/admin/log-level",
        "getLogLevel",
        "Show the log level",
        "Mode",
        LevelNow,
        _LEVEL,
        errors=(401,),
    ),
    Operation(
        "PUT",
        "/admin/log-level",
        "setLogLevel",
        "Change the log level, at once",
        "Mode",
        LevelNow,
        {**_LEVEL, "note": "it lasts until a restart"},
        body=NewLevel,
        asked={"level": "debug"},
        errors=(400, 401),
        text="Of the service, and of Envoy where its admin socket is here; Envoy's own debug level,"
        " which prints headers, is never asked for.",
    ),
)
