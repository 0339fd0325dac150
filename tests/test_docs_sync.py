"""docs/sync.md says what is so."""

import re
from pathlib import Path
from typing import Final

import pytest
import yaml
from typer.testing import CliRunner

from authz.bundles.accept import LEEWAY_S
from authz.bundles.archive import MAX_BUNDLE
from authz.cli import app
from authz.core.incident import Kind
from authz.settings import described
from authz.sync import client, push, schedule
from authz.sync.errors import Cause
from authz.wiring import syncing

ROOT: Final = Path(__file__).parents[1]
TEXT: Final = (ROOT / "docs/sync.md").read_text()
FLAT: Final = " ".join(TEXT.split())


def _table(heading: str) -> list[str]:
    rows = TEXT.split(f"| {heading} | |\n|---|---|\n")[1].split("\n\n")[0].splitlines()
    return [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]


def test_its_variables_are_those_that_there_are() -> None:
    known = {variable.name for variable in described()}
    ours = {name for name in known if name.startswith("SYNC_")}
    assert {*_table("Variable"), "SYNC_ALLOW_HTTP"} == ours
    others = {"HTTPS_PROXY", "NO_PROXY", "ADMIN_TOKEN", "JWT_SECRET"}
    named = set(re.findall(r"\b(?:SYNC|AUDIT|POLICY|POLICIES|REQUIRE|SSL)_[A-Z_]+\b", TEXT))
    assert named <= known | others


def test_its_causes_are_all_of_them() -> None:
    assert _table("Cause") == list(Cause)
    assert f'"problem": "pull: {Cause.UNREACHABLE.said}"' in TEXT


@pytest.mark.parametrize("command", ["pull", "push", "status", "run"])
def test_its_commands_exist(command: str) -> None:
    assert f"$ authz sync {command}\n" in TEXT
    assert CliRunner().invoke(app, ["sync", command, "--help"]).exit_code == 0


def test_its_figures_are_the_codes() -> None:
    for said in (
        f"no byte for {client.SILENT_S:g} s",
        f"more than {client.TOTAL_S:g} s as a whole",
        f"up to {schedule.MAX_BACKOFF_S / 60:g} minutes apart",
        f"within {syncing.KEPT_S:g} seconds",
        f"{push.ROWS:,} rows, or {push.MAX_SLICE >> 20} MiB",
        f"{MAX_BUNDLE >> 20} MiB for a bundle, {client.MAX_SMALL >> 10} KiB for anything else",
        f"by more than {LEEWAY_S // 60} minutes",
        "up to a fifth early",
        "up to an hour",
    ):
        assert said in FLAT, said
    assert (schedule.JITTER, schedule.MAX_RETRY_AFTER_S) == (1 / 5, 3600)
    for kind in (Kind.SYNC_PULL_FAILED, Kind.SYNC_PUSH_FAILED):
        assert f"`incident:{kind}`" in TEXT


def test_its_links_and_files_are_there() -> None:
    for link in re.findall(r"\]\(([\w./-]+\.md)\)", TEXT):
        assert (ROOT / "docs" / link).exists(), link
    assert (ROOT / "deploy/kubernetes/components/sync").is_dir()
    [job] = [
        one
        for one in yaml.safe_load_all(
            (ROOT / "deploy/kubernetes/components/sync/cronjob.yaml").read_text()
        )
        if one["kind"] == "CronJob"
    ]
    assert job["spec"]["schedule"]
