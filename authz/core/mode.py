"""Enforcement modes (seed, "Enforcement Modes"). What they do is in `verdict.enforced`."""

from enum import StrEnum


class Mode(StrEnum):
    """What is done with a decision (MODE)."""

    ENFORCE = "enforce"
    AUDIT = "audit"
    BYPASS = "bypass"
