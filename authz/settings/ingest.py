"""Taking other sidecars' trails in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import BeforeValidator, Field

from authz.settings import checks
from authz.settings.group import Group

if TYPE_CHECKING:
    from authz.settings.model import Settings

#: Bytes of an upload unless it is said otherwise: some 400,000 rows, a month of a busy sidecar.
MAX_BYTES: Final = 256 * 1024 * 1024
#: The least and most that can be said: an empty trail has 50 KiB, and a larger one takes longer to
#: read than a request lasts.
LEAST_BYTES, MOST_BYTES = 64 * 1024, 512 * 1024 * 1024


def _paths(text: object) -> object:
    if not isinstance(text, str):
        return text
    return tuple(Path(one.strip()) for one in text.split(",") if one.strip())


class Ingest(Group):
    """`POST /admin/audit/ingest`."""

    audit_ingest_db_path: Path | None = Field(
        None,
        alias="AUDIT_INGEST_DB_PATH",
        description="SQLite file of the trails that other sidecars send; AUDIT_DB_PATH with"
        " `.ingested` appended when unset",
    )
    audit_ingest_max_bytes: Annotated[int, checks.whole_number(LEAST_BYTES, MOST_BYTES)] = Field(
        MAX_BYTES,
        alias="AUDIT_INGEST_MAX_BYTES",
        description="bytes of a database that is sent, at most",
    )
    audit_ingest_keys: Annotated[tuple[Path, ...], BeforeValidator(_paths)] = Field(
        (),
        alias="AUDIT_INGEST_KEYS",
        description="files of the public keys (PEM) that such trails have to be signed with, with"
        " commas between them; any trail is taken when unset",
    )


def ingest_path(database: Path, given: Path | None) -> Path:
    """Where ingested trails are: as given, else beside AUDIT_DB_PATH."""
    return given or Path(f"{database}.ingested")


def ingest_problems(settings: "Settings") -> list[str]:
    """What is wrong with where ingested trails are."""
    taken = {
        "AUDIT_DB_PATH": settings.audit_db_path,
        "AUDIT_KEY_FILE": settings.audit_key_file,
    }
    path = settings.audit_ingest_path.absolute()
    problems = [
        f"AUDIT_INGEST_DB_PATH: must be another file than {name}"
        for name, other in taken.items()
        if other is not None and other.absolute() == path
    ]
    problems += [
        f"AUDIT_INGEST_KEYS: {key}: there is no such file"
        for key in settings.audit_ingest_keys
        if not key.is_file()
    ]
    return problems
