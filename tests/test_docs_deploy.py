"""docs/deploy.md: its table of exit codes and its checklist are the code's, its unit is sound."""

import re
import subprocess
from pathlib import Path
from typing import Final

from typer.testing import CliRunner

from authz.cli import app
from authz.cli.doctor.checklist import LINES
from authz.exits import MEANING, Exit
from authz.settings import described
from tests.peers.tools import require

ROOT: Final = Path(__file__).parents[1]
TEXT: Final = (ROOT / "docs" / "deploy.md").read_text()
UNIT: Final = ROOT / "deploy" / "systemd" / "authz-sidecar@.service"


def test_every_exit_code_is_told_of_in_order() -> None:
    section = TEXT.partition("## When it does not start")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([0-9]+) \| (.*) \| (.*) \|$", section, re.MULTILINE)
    assert rows == [(str(int(code)), *MEANING[code]) for code in Exit]


def test_the_checklist_has_doctors_lines_in_their_order_and_a_command_each() -> None:
    section = TEXT.partition("## Deployment checklist")[2]
    found = re.findall(r"^- \[ \] \*\*(.+)\*\* — (.+)\.\n  (.+)$", section, re.MULTILINE)
    assert [(title, words) for title, words, _ in found] == [
        (line.title, line.words) for line in LINES
    ]
    assert len(found) == 10
    for _, _, command in found:
        assert command.startswith("`authz doctor`; ")


def test_its_commands_exist() -> None:
    for words in set(re.findall(r"`authz ([a-z]+(?: [a-z]+)?)", TEXT)):
        assert CliRunner().invoke(app, [*words.split(), "--help"]).exit_code == 0, words


def test_the_unit_and_its_environment_name_variables_that_exist() -> None:
    known = {row.name for row in described()}
    example = TEXT.partition("<<END\n")[2].partition("\nEND")[0]
    named = re.findall(r"^([A-Z_]+)=", example, re.MULTILINE)
    named += re.findall(r"^Environment=([A-Z_]+)=", UNIT.read_text(), re.MULTILINE)
    assert len(named) > 8
    assert set(named) <= known


def test_the_unit_does_not_start_again_what_a_start_cannot_mend() -> None:
    found = re.search(r"^RestartPreventExitStatus=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert found is not None
    assert {int(code) for code in found[1].split()} == {
        Exit.SETTINGS, Exit.KEY_FILE, Exit.ENVOY,
    }  # fmt: skip


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    analyze = require("systemd-analyze", "systemd")
    program = tmp_path / "authz"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "authz-sidecar@agent.service"
    unit.write_text(UNIT.read_text().replace("/opt/authz/bin/authz", str(program)))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
