"""What a shell offers after TAB: words that are known, and the ids of agents in the database here.

- Nothing is asked over a network, nothing is waited for, and no mistake is shown: there is just
  nothing to offer then.
- A shell puts what is offered on the command line as it stands: an id that it could take for more
  than a word is not offered.
"""

import contextlib
import os
import re
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from authz.core.tiers import TIERS

#: Most ids that are offered.
MAX_OFFERED: Final = 50
#: Seconds that a database may keep us.
PATIENCE_S: Final = 0.2
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.@+-]{1,128}")


def like(words: Sequence[str]) -> Callable[[str], list[str]]:
    """What completes one of these words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete.lower())]

    return complete


tiers_like: Final = like(TIERS)


def agents_like(incomplete: str) -> list[str]:
    """The ids of agents that begin so."""
    database = os.environ.get("AUDIT_DB_PATH") or os.environ.get("DB_PATH") or "data/audit.db"
    if incomplete and not _PLAIN.fullmatch(incomplete):
        return []
    found: list[str] = []
    with contextlib.suppress(sqlite3.Error, OSError, ValueError):
        path = Path(database).resolve(strict=True)
        with contextlib.closing(
            sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=PATIENCE_S)
        ) as there:
            rows = there.execute(
                "SELECT key FROM ledger WHERE kind = 'agent' AND value IS NOT NULL"
                " AND key >= ? AND key < ? ORDER BY key LIMIT ?",
                (incomplete, f"{incomplete}\U0010ffff", MAX_OFFERED),
            )
            found = [str(key) for (key,) in rows]
    return [key for key in found if _PLAIN.fullmatch(key)]
