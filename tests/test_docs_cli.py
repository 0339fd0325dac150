"""docs/cli.md names every command there is, and no other."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.core import TyperGroup
from typer.main import get_command

from authz.cli import app

TEXT = (Path(__file__).parents[1] / "docs" / "cli.md").read_text()


def commands(command: Any, path: str = "authz") -> Iterator[str]:
    if not isinstance(command, TyperGroup):
        yield path
        return
    for name, one in command.commands.items():
        if not one.hidden:
            yield from commands(one, f"{path} {name}")


def told() -> Iterator[str]:
    """`authz agent list`, `show ID` are two of one group."""
    for cell in re.findall(r"^\| (`authz .*?) \|", TEXT, re.MULTILINE):
        group = ""
        for words in re.findall(r"`([^`]+)`", cell):
            names = [word for word in words.split() if re.fullmatch(r"[a-z-]+", word)]
            if names[0] == "authz":
                group = " ".join(names[:-1])
                yield " ".join(names)
            else:
                yield f"{group} {names[0]}"


def test_every_command_is_told_of_and_no_other() -> None:
    assert sorted(told()) == sorted(commands(get_command(app)))
