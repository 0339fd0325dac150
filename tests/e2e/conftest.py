"""Sidecars by mode. One is shared by a file's tests, with the rows of each test told apart."""

from collections.abc import Iterator

import pytest

from tests.e2e import sidecar as starter
from tests.e2e import upstream as upstreams
from tests.e2e.sidecar import Sidecar
from tests.e2e.upstream import Upstream


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with upstreams.serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def enforcing(upstream: Upstream) -> Iterator[Sidecar]:
    with starter.running(upstream) as sidecar:
        yield sidecar


@pytest.fixture(scope="module")
def auditing(upstream: Upstream) -> Iterator[Sidecar]:
    with starter.running(upstream, MODE="audit") as sidecar:
        yield sidecar
