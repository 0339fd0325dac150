"""What several commands need: reading settings, and failing with sentences."""

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from authz.settings import Settings


def fail(sentences: Iterable[str], code: int) -> NoReturn:
    """Print each sentence to stderr and exit."""
    for sentence in sentences:
        typer.echo(f"authz: {sentence}", err=True)
    raise typer.Exit(code)


def environment(*, dev_secrets: bool) -> dict[str, str]:
    """This process's environment, with development secrets filled in when asked for."""
    from authz import dev_secrets as made_up
    from authz.settings import SettingsError, settings_of

    env = dict(os.environ)
    if not dev_secrets:
        return env
    try:
        return made_up.fill_in(env, settings_of(env, "AUTHZ_RUN_DIR").run_dir)
    except SettingsError as error:
        fail(error.problems, 2)


def read_settings(env: Mapping[str, str]) -> "Settings":
    """Settings of an environment; exits with every mistake listed."""
    from authz.settings import Settings, SettingsError

    try:
        return Settings.from_env(env)
    except SettingsError as error:
        fail(error.problems, 2)
