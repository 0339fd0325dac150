"""What is in force, as the files of an archive: what a sidecar hands to others.

- Of a directory: each file's own bytes, where all that it holds is in force and it still holds it;
  else what of it is in force, as YAML. A file that is bad, or has nothing, is left out.
- Of a version that is pinned, which no file need have: a file for each document.
- The same policies from the same files are the same bytes, so that an ETag lasts.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from authz.bundles.archive import check_name, unpack
from authz.bundles.errors import BundleError
from authz.core.policy_file import MAX_FILE, Placed, PlacedChain, parse_file
from authz.core.policy_set import PolicyFile
from authz.core.policy_text import Key, text_of, written
from authz.stores.files import read_file
from authz.stores.pace import Pace
from authz.stores.policies import Loaded, member_of
from authz.stores.version_log import Said

#: Characters of a document's name in its file's.
MAX_SLUG: Final = 64


def files_of(loaded: Loaded, root: Path, pace: Pace) -> dict[str, bytes]:
    """The files of a directory, as far as they are in force, by their names below it."""
    by_file: dict[str, tuple[PolicyFile, list[Placed | PlacedChain]]] = {}
    policies = loaded.policies
    sources: list[tuple[PolicyFile, Placed | PlacedChain]] = [*policies.sources.values()]
    for file, placed in [*sources, *policies.chain_sources.values()]:
        by_file.setdefault(file.file, (file, []))[1].append(placed)
    found: dict[str, bytes] = {}
    taken: set[str] = set()
    for name in pace.over(sorted(by_file)):
        file, documents = by_file[name]
        content = None
        if not file.stale and len(documents) == len(file.policies) + len(file.chain):
            content = _own_bytes(name, loaded.digests.get(name, b""))
        if content is None:
            content = _written(_said(one) for one in documents)
        found[_member(Path(name), root, taken)] = content
    return found


def files_for(said: Sequence[Said], pace: Pace) -> dict[str, bytes]:
    """A file for each of these documents."""
    found = {}
    for one in pace.over(said):
        slug = re.sub(r"[^a-z0-9]+", "-", one.name.lower())[:MAX_SLUG].strip("-") or "policy"
        digest = hashlib.sha256(one.said.encode()).hexdigest()[:16]
        found[f"{slug}-{digest}.yaml"] = _written([one.said])
    return found


def text_in(loaded: Loaded, key: Key) -> bytes | None:
    """A document's own text, out of the bundle that it came from; None where it has none."""
    source, state = loaded.policies.source(*key), loaded.bundle
    if source is None or state is None or state.taken is None:
        return None
    content = unpack(state.taken.data).files[member_of(loaded, source[0].file)]
    return text_of(content, parse_file(content, source[0].file), key)


def _own_bytes(path: str, digest: bytes) -> bytes | None:
    """What a file holds; None where that is not what was read of it."""
    try:
        content, _ = read_file(Path(path), MAX_FILE)
    except OSError:
        return None
    return content if hashlib.sha256(content).digest() == digest else None


def _said(placed: Placed | PlacedChain) -> str:
    return placed.policy.said if isinstance(placed, Placed) else placed.document.said


def _written(said: Iterable[str]) -> bytes:
    return b"---\n".join(written(json.loads(one)) for one in said)


def _member(path: Path, root: Path, taken: set[str]) -> str:
    """The name in the archive; another one where it could not be there, or be taken for one."""
    name = path.relative_to(root).as_posix()
    try:
        check_name(name)
        is_good = name.casefold() not in taken
    except (BundleError, UnicodeError):
        is_good = False
    if not is_good:
        name = f"file-{hashlib.sha256(bytes(path.relative_to(root))).hexdigest()[:16]}.yaml"
    taken.add(name.casefold())
    return name
