"""The modes that every test runs in, and what tests say that they drive."""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType

import pytest

from authz.core.mode import Mode
from tests.e2e import sidecar as starter
from tests.e2e.sidecar import Sidecar
from tests.sdk.gateway import Gateway
from tests.sdk.surface import code_of, driven


@pytest.fixture(scope="package", params=list(Mode))
def demo(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Mode, Sidecar]]:
    """One a mode: tests of all files that share it run one after the other."""
    policies = tmp_path_factory.mktemp("demo") / "policies"
    shutil.copytree(starter.SAMPLE_POLICIES, policies)
    shutil.copy(Path(__file__).with_name("policies.yaml"), policies / "sdk-tests.yaml")
    # Other tests have the processors too.
    more = {"POLICIES_DIR": str(policies), "DECISION_TIMEOUT_MS": "10000"}
    with starter.demo(MODE=request.param, **more) as sidecar:
        yield request.param, sidecar


@pytest.fixture
def gateway(demo: tuple[Mode, Sidecar]) -> Iterator[Gateway]:
    mode, sidecar = demo
    with contextlib.ExitStack() as opened:
        yield Gateway(sidecar, mode, opened)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that whoever runs the tests has set for the SDK."""
    for name in ("GATEWAY_URL", "AGENT_TOKEN", "ADMIN_TOKEN"):
        monkeypatch.delenv(f"MESHGUARD_{name}", raising=False)


@pytest.fixture(autouse=True)
def drives_what_it_says(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that says it drives something has run it, or at least names it if it has no code."""
    named = {name: code_of(name) for name in driven(request.function)}
    ran: set[CodeType] = set()

    def notice(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            ran.add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(notice)
    try:
        yield
    finally:
        sys.setprofile(before)
    mentioned = request.function.__code__.co_names
    idle = [
        name for name, code in named.items() if (code not in ran if code else name not in mentioned)
    ]
    assert not idle, f"not driven by this test: {idle}"
