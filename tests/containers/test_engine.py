"""Whether there is an engine to run containers on, and an image to run."""

import os

import pytest

from tests.containers import engine


def test_there_is_a_container_engine_and_an_image() -> None:
    """Where there is none, the only one of these tests that is collected."""
    reason = engine.missing()
    if reason and os.environ.get("REQUIRE_DOCKER"):
        pytest.fail(reason)
    if reason:
        pytest.skip(f"{reason}: set REQUIRE_DOCKER=1 to make this a failure")
    assert engine.client().ping()
