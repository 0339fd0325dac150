"""What several commands need: reading settings, and failing with sentences."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from authz.settings import Settings

DEV_SECRETS_HELP = "Make up missing secrets and keep them in AUTHZ_RUN_DIR. For demos only."


def fail(sentences: Iterable[str], code: int) -> NoReturn:
    """Print each sentence to stderr and exit."""
    for sentence in sentences:
        typer.echo(f"authz: {sentence}", err=True)
    raise typer.Exit(code)


def environment(*, dev_secrets: bool) -> dict[str, str]:
    """This process's environment, with development secrets filled in when asked for."""
    from authz import dev_secrets as made_up
    from authz.settings import Settings, SettingsError

    env = dict(os.environ)
    if not dev_secrets:
        return env
    run_dir = Path(env.get("AUTHZ_RUN_DIR") or Settings.model_fields["run_dir"].default)
    try:
        return made_up.fill_in(env, run_dir)
    except SettingsError as error:
        fail(error.problems, 2)


def read_settings(env: Mapping[str, str]) -> "Settings":
    """Settings of an environment; exits with every mistake listed."""
    from authz.settings import Settings, SettingsError

    try:
        return Settings.from_env(env)
    except SettingsError as error:
        fail(error.problems, 2)


def visible(text: str) -> str:
    """A text that somebody else chose, safe for a terminal: what it hides is shown escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
