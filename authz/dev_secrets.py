"""Secrets for trying things out: random, made once per run directory, readable by its owner.

They stand on disk beside the sockets, so whoever may read that directory can mint any agent:
good for a laptop, nothing else, which is why the option that uses them is called insecure.
"""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from authz.settings import SettingsError

FILE: Final = "dev-secrets.json"
#: What is made up where it is missing.
NAMES: Final = ("JWT_SECRET", "ADMIN_TOKEN")


def fill_in(env: Mapping[str, str], run_dir: Path) -> dict[str, str]:
    """The environment with JWT_SECRET and ADMIN_TOKEN where they are missing.

    Raises:
        SettingsError: the file of secrets cannot be used.
    """
    path = run_dir / FILE
    try:
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o770)
        made = {"JWT_SECRET": secrets.token_hex(32), "ADMIN_TOKEN": secrets.token_hex(16)}
        draft = run_dir / f".{FILE}.{os.getpid()}"
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(made))
        try:
            os.link(draft, path)  # the first of several at once wins, whole
        except FileExistsError:
            made = json.loads(path.read_text())
        finally:
            draft.unlink()
        found = {name: str(made[name]) for name in NAMES}
    except OSError as error:
        raise SettingsError(
            [f"AUTHZ_RUN_DIR: {run_dir} cannot be used: {error.strerror}"]
        ) from None
    except (ValueError, KeyError, TypeError):
        raise SettingsError([f"{path}: not a file of development secrets; delete it"]) from None
    return {**found, **{name: value for name, value in env.items() if value.strip()}}
