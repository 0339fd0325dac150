"""A variable that is nearly ours is warned of, and what belongs to others is not."""

import pytest

from authz.settings import described
from authz.settings.typos import typos
from tests.e2e import sidecar as starter
from tests.e2e.sidecar import wait_until


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("POLICY_BUNDEL", "POLICY_BUNDLE"),
        ("REQUIRE_SIGEND_POLICIES", "REQUIRE_SIGNED_POLICIES"),
        ("ALERT_WEBHOOK_URLS", "ALERT_WEBHOOK_URL"),
        ("SYNC_INTERVA", "SYNC_INTERVAL"),
        ("METRICS-ENABLED", "METRICS_ENABLED"),
    ],
)
def test_one_letter_is_warned_of(name: str, meant: str) -> None:
    [said] = typos([name, "JWT_SECRET"])
    assert said == f"{name}: has no effect; if it is for the sidecar, its name is {meant}"


@pytest.mark.parametrize(
    "names",
    [
        [variable.name for variable in described()],
        ["DB_PATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "HOSTS", "POST", "NODE", "ADMIN"],
        ["OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "KUBERNETES_SERVICE_HOST"],
        ["POLICY_BUNDLE", "POLICY_BUNDLES"],
    ],
)
def test_what_is_ours_or_somebody_elses_is_not(names: list[str]) -> None:
    assert list(typos(names)) == []


def test_the_log_says_so_without_the_value() -> None:
    with starter.directory() as directory:
        (directory / "policies").mkdir()
        env = starter.environment(
            directory, 1, "http://127.0.0.1:1", POLICY_BUNDEL="/somewhere",
            POLICIES_DIR=str(directory / "policies"),
        )  # fmt: skip
        with starter.start(directory, env, "serve"):
            wait_until((directory / "run" / "http.sock").exists, "the service to answer")
        log = (directory / "stderr").read_text()
    assert (
        "POLICY_BUNDEL: has no effect; if it is for the sidecar, its name is POLICY_BUNDLE" in log
    )
    assert "/somewhere" not in log
