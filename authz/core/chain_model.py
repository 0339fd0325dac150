"""What every document of the chain is made of (`chain_doc`, `alert_doc`).

- A key has one spelling, and one that is unknown is an error.
- A duration is written `24h`: a bare number would leave its reader to guess the unit.
"""

import re
from typing import Annotated, Final

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from authz.core.policy_doc import MAX_TEXT, Label, Model, Name

#: Seconds of the longest duration: what a wallet looks back at most, or waits for its refill.
MAX_DURATION_S: Final = 30 * 86_400

_DURATION: Final = re.compile(r"([1-9][0-9]{0,6})([smhd])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(duration: str) -> int:
    """The seconds of a duration such as `24h`; 0 where it is none."""
    found = _DURATION.fullmatch(duration)
    return int(found[1]) * _UNITS[found[2]] if found else 0


def wrong(said: str, *path: int | str) -> PydanticCustomError:
    """An error with this sentence, at this path below what is being read."""
    # Not as the message: pydantic would fill in what it takes for placeholders.
    return PydanticCustomError("at", "unusable", {"said": said, "path": path})


def _duration(value: object) -> object:
    if not isinstance(value, str) or not 1 <= seconds(value) <= MAX_DURATION_S:
        said = "a duration is a whole number and s, m, h or d, such as 24h; from 1s to 30d"
        raise wrong(said)
    return value


Duration = Annotated[
    str,
    BeforeValidator(_duration, json_schema_input_type=str),
    Field(json_schema_extra={"pattern": f"^{_DURATION.pattern}$"}),
]


class ChainModel(Model):
    """A mapping whose every key restricts."""

    model_config = ConfigDict(validate_by_name=False, alias_generator=to_camel)


class ChainDoc(ChainModel):
    """What all these documents have."""

    name: Name = Field(description="unique among all documents of its kind")
    kind: str
    version: Label = Field("", description="in quotes: 1.10 is a number to YAML")
    description: str = Field("", max_length=MAX_TEXT)
