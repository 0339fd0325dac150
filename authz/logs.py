"""Log lines of all our processes in one layout: time, level, who speaks, what happened.

- Everything goes to stderr; stdout belongs to what a command prints. Envoy is told to use the same
  layout (`envoy_log_format`), so its lines and ours can be read, or parsed, as one stream.
- LOG_LEVEL is ours alone. Other people's packages say warnings and errors at any level: what they
  tell beyond that is every URL, header or SQL parameter, secrets among them.
- What belongs to an event besides its sentence, such as a trace's id, is given as `extra`, and is a
  member of its own in JSON, `name=value` behind the sentence in text.

The standard library's logging, not structlog: events here are sentences, and importing structlog
costs each process 7 MB and 0.1 s of a 1.5 s start.
"""

import json
import logging
import sys
from typing import Final

from authz.core.text import visible
from authz.core.timestamps import rfc3339

#: What LOG_LEVEL can be, the most talkative first.
LEVELS: Final = ("debug", "info", "warning", "error")
#: Envoy's level for each of ours. Not its debug: that prints every header, tokens included.
ENVOY_LEVELS: Final = {"debug": "info", "info": "warning", "warning": "warning", "error": "error"}

#: Whose level LOG_LEVEL is: every logger of ours is below it.
_OURS: Final = logging.getLogger("authz")
_ENVOY_TEXT: Final = "%Y-%m-%dT%H:%M:%S.%eZ [%-7l] [envoy] %v"
_ENVOY_JSON: Final = (
    '{"timestamp":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l","component":"envoy",'
    '"logger":"%n","event":"%j"}'
)
#: What every record has, so that the rest is `extra`.
_USUAL: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "lowered"}


def configure(level: str, layout: str, component: str) -> None:
    """Set up logging for this process. `layout` is `text` or `json` (LOG_FORMAT)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(component) if layout == "json" else _Text(component))
    logging.getLogger().handlers = [handler]
    set_level(level)
    logging.captureWarnings(True)


def set_level(level: str) -> None:
    """Change how much this process says, one of `LEVELS`, from the next line on."""
    number = getattr(logging, level.upper())
    _OURS.setLevel(number)
    logging.getLogger().setLevel(max(number, logging.WARNING))


def level() -> str:
    """How much this process says now, one of `LEVELS`."""
    return logging.getLevelName(_OURS.getEffectiveLevel()).lower()


def envoy_log_format(layout: str) -> str:
    """Envoy's `--log-format` for a layout. Envoy has to run with TZ=UTC for the `Z` to be true."""
    return _ENVOY_JSON if layout == "json" else _ENVOY_TEXT


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: said for name, said in vars(record).items() if name not in _USUAL}


class _Text(logging.Formatter):
    def __init__(self, component: str) -> None:
        super().__init__(f"%(asctime)s [%(lowered)-7s] [{component}] %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.lowered = record.levelname.lower()
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        said = [record.message, *(f"{name}={one}" for name, one in _extra(record).items())]
        # File names and policies are other people's texts; one event is one line.
        record.message = visible(" ".join(said))
        return super().formatMessage(record)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        return rfc3339(record.created, "milliseconds")


class _Json(logging.Formatter):
    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        event = {
            **_extra(record),
            "timestamp": rfc3339(record.created, "milliseconds"),
            "level": record.levelname.lower(),
            "component": self._component,
            "logger": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)
