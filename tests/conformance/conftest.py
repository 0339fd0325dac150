"""One sidecar a mode for all of these tests, each with policies that it may write to."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.upstream import OddUpstream
from tests.e2e import sidecar as starter
from tests.e2e import upstream as upstreams
from tests.e2e.sidecar import Sidecar
from tests.e2e.upstream import Upstream

POLICIES = Path(__file__).with_name("policies.yaml")


@pytest.fixture(scope="package")
def upstream() -> Iterator[Upstream]:
    with upstreams.serving(app=OddUpstream()) as serving:
        yield serving


def _policies(factory: pytest.TempPathFactory) -> str:
    directory = factory.mktemp("policies")
    shutil.copy(POLICIES, directory)
    return str(directory)


@pytest.fixture(scope="package")
def enforcing(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    directory = _policies(tmp_path_factory)
    with starter.running(upstream, POLICIES_DIR=directory, METRICS_ENABLED="true") as sidecar:
        yield sidecar


@pytest.fixture(scope="package")
def auditing(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    directory = _policies(tmp_path_factory)
    with starter.running(upstream, POLICIES_DIR=directory, MODE="audit") as sidecar:
        yield sidecar


@pytest.fixture(scope="package")
def bypassing(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    directory = _policies(tmp_path_factory)
    with starter.running(upstream, POLICIES_DIR=directory, MODE="bypass") as sidecar:
        yield sidecar


@pytest.fixture(scope="package")
def pinned(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """For one agent, without an admin token, and its database under its other name."""
    directory = tmp_path_factory.mktemp("other-name")
    with starter.running(
        upstream,
        POLICIES_DIR=_policies(tmp_path_factory),
        ADMIN_TOKEN="",
        AUDIT_DB_PATH="",
        DB_PATH=str(directory / "audit.db"),
        SIDECAR_AGENT_ID="the-one",
    ) as sidecar:
        yield sidecar
