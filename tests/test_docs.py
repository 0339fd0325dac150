"""What the README says exists: its targets, commands, links, requests and sample answers."""

import re
from pathlib import Path
from typing import Final

import pytest
from typer.testing import CliRunner

from authz.cli import app
from authz.cli.banner import banner
from authz.core.policy_file import parse_file
from authz.settings import Settings

ROOT: Final = Path(__file__).parents[1]
README: Final = (ROOT / "README.md").read_text()
MAKEFILE: Final = (ROOT / "Makefile").read_text()


def test_every_make_target_exists_and_has_help() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    for target in phony[1].split():
        assert re.search(rf"^{target}:.*## \S", MAKEFILE, re.MULTILINE), target
    found = re.findall(
        r"`make ([a-z]+)`|^(?:\$ )?make ([a-z]+)",
        README + (ROOT / ".ci/run").read_text(),
        re.MULTILINE,
    )
    named = {quoted or alone for quoted, alone in found}
    assert {"run", "test", "help"} <= named <= set(phony[1].split())


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_every_file_and_folder_it_names_exists() -> None:
    for name in re.findall(r"`(authz/[a-z_/.]+)`", README):
        assert (ROOT / name).exists(), name


def test_every_command_exists() -> None:
    named = re.findall(r"(?:`|bin/)authz ([a-z]+(?: [a-z]+)?)", README)
    assert len(named) > 5
    for words in named:
        assert CliRunner().invoke(app, [*words.split(), "--help"]).exit_code == 0, words


def test_its_requests_are_the_banners() -> None:
    shown = banner(Settings.from_env({"JWT_SECRET": "s" * 32, "HOST": "127.0.0.1"}))
    curls = re.findall(r"^\$ (curl .*)$", README, re.MULTILINE)
    assert len(curls) == 2
    for curl in curls:
        assert curl in shown.splitlines()


def test_its_policy_is_one() -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    parsed = parse_file(text.encode(), "README.md")
    assert parsed.problems == ()
    assert len(parsed.policies) == 1


def test_the_changelog_has_a_section_to_write_in() -> None:
    assert "\n## Unreleased\n\n- " in (ROOT / "CHANGELOG.md").read_text()
