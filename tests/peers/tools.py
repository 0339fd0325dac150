"""Programs of others that a test needs, from the packages in requirements/debian.txt."""

import os
import shutil

import pytest


def require(program: str, package: str) -> str:
    """Its path. Without it the test is skipped; where REQUIRE_TOOLS is set (CI), it fails."""
    path = shutil.which(program)
    if path is None:
        reason = f"{program} is not installed: apt-get install {package}"
        if os.environ.get("REQUIRE_TOOLS"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path
