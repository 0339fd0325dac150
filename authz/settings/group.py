"""What every group of variables has in common."""

from pydantic import BaseModel, ConfigDict


class Group(BaseModel):
    """Fields of ours; their aliases are the variables."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)
