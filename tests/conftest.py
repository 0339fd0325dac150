"""What every test relies on, wherever the suite is started from."""

import gc
import logging
import os
import re
import signal
from collections.abc import Iterator
from typing import Final

import pytest

from authz.settings import described
from tests.leaks import Listener

# A shell starts what it puts into the background with SIGINT ignored, and so would each process be
# that a test starts and interrupts. A handler is not inherited: they begin with the default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: What users tell programs: which gateway is theirs, a proxy, what their terminal is like. Not
#: AUTHZ_IMAGE, which tells the tests in containers what to test.
_TOLD: Final = re.compile(
    r"(meshguard|authz)_(?!image$).*|.*_proxy|(no|force)_color|columns|lines", re.IGNORECASE
)

# Each test says itself what it needs. When modules of tests are imported this is done already.
for _name in {variable.name for variable in described()} | set(filter(_TOLD.fullmatch, os.environ)):
    os.environ.pop(_name, None)


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nor does a config file of whoever runs the tests count."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def _listener() -> Iterator[Listener]:
    """Hears everything of ours that is logged in this process."""
    listener = Listener()
    ours = logging.getLogger("authz")
    ours.addHandler(listener)
    yield listener
    ours.removeHandler(listener)


@pytest.fixture(autouse=True)
def _no_token_is_logged(_listener: Listener) -> Iterator[None]:
    """Nor does a test in this process log a token (`tests/leaks.py` looks through the others)."""
    yield
    leaked = _listener.leaks[:]
    _listener.leaks.clear()
    assert leaked == []


def pytest_collection_finish() -> None:
    """What has been collected stays: no collection of garbage needs to look at it again.

    Ten thousand tests with their parameters and modules are a large heap, and what is tested makes
    much garbage.
    """
    gc.collect()
    gc.freeze()
