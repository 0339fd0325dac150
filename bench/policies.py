"""Policy sets for measuring: realistic, of any size, and the same each time.

A policy has five rules with about ten patterns: exact ones, prefixes, suffixes, stars in the
middle and on both sides, most of them about the policy's own resources and a few that everybody
writes (`admin:*`, `*:secrets*`). Every third has a condition, every tenth a rate limit, which is a
warning. They are for agents by id, by tag, by tag and tier, or by tag and organisation, unless
they are made for the caller.

An *edition* is in every document, so that two editions of a set have no policy in common.
"""

import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from authz.core.compiled import CompiledPolicy, compile_policy
from authz.core.policy_doc import PolicyDoc

#: The caller of every benchmark.
AGENT: Final = "bench-agent"
TAG: Final = "bench"

Document = dict[str, Any]
Scope = Mapping[str, list[str]]

#: For the caller, whoever else.
CALLER: Final[Scope] = {"tags": [TAG]}

_NOUNS: Final = (
    *("invoices", "orders", "users", "tickets", "reports", "releases", "builds", "datasets"),
    *("models", "prompts", "payments", "contracts", "emails", "calendars", "leads", "metrics"),
)


def resource(index: int) -> str:
    """What the policy of this number is about."""
    return f"{_NOUNS[index % len(_NOUNS)]}-{index}"


def for_others(index: int) -> Scope:
    """A scope that the caller is not in."""
    team = f"team-{index // 4}"
    scopes: tuple[Scope, ...] = (
        {"agentIds": [f"agent-{index}", f"agent-{index}-staging"]},
        {"tags": [team]},
        {"tags": [team, f"{team}-guests"], "trustTiers": ["trusted", "privileged"]},
        {"tags": [team], "orgIds": [f"org-{index % 7}"]},
    )
    return scopes[index % len(scopes)]


def document(index: int, scope: Scope, *, edition: str = "A") -> Document:
    """One policy about `resource(index)`."""
    what = resource(index)
    rules: list[Document] = [
        {
            "id": "keep",
            "effect": "deny",
            "actions": [f"delete:{what}/*", f"*/{what}/export", f"*:{what}/private/*"],
            "reason": f"{what} are kept for ten years",
        },
        {"id": "never", "effect": "deny", "actions": ["admin:*", "*:secrets*"]},
        {"id": "ship", "effect": "require_approval", "actions": [f"execute:{what}/deploy"]},
        {
            "id": "work",
            "effect": "allow",
            "actions": [f"write:{what}/drafts/*", f"write:*/{what}/comments"],
        },
        {
            "id": "look",
            "effect": "allow",
            "actions": [f"read:{what}", f"read:{what}/*", f"read:*/{what}/summary"],
        },
    ]
    work, look = rules[-2:]
    if index % 3 == 0:
        work["conditions"] = {"context.amount": {"gte": 0, "lte": 1000}}
    if index % 10 == 9:
        look["rateLimits"] = {"requestsPerMinute": 60}
    return {
        "name": f"policy-{index:05}",
        "version": "1.0",
        "description": f"What may be done with {what} (edition {edition})",
        "appliesTo": {key: list(names) for key, names in scope.items()},
        "rules": rules,
        "defaultEffect": "deny",
    }


def documents(count: int, *, edition: str = "A", mine: int = 3) -> Iterator[Document]:
    """A set in which the first `mine` policies are for the caller."""
    for index in range(count):
        yield document(index, CALLER if index < mine else for_others(index), edition=edition)


def compiled(these: Iterable[Document]) -> list[CompiledPolicy]:
    """Documents made ready, without going through files."""
    return [compile_policy(PolicyDoc.model_validate(said)) for said in these]


def texts(these: Iterable[Document]) -> dict[str, bytes]:
    """Documents as their authors would write them, by file name."""
    found = {}
    for said in these:
        written: str = yaml.dump(said, Dumper=yaml.CSafeDumper, sort_keys=False, width=100)
        found[f"{said['name']}.yaml"] = written.encode()
    return found


def write(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a directory."""
    for name, content in files.items():
        (directory / name).write_bytes(content)


class Volume:
    """A directory of policies that changes as a mounted ConfigMap does.

    The files are in a directory of their own version, `..data` is a link to it, and every visible
    name a link through that: one rename replaces them all (kubelet's AtomicWriter).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._path_of_data = path / "..data"
        self._versions = itertools.count(1)
        path.mkdir()

    def publish(self, files: Mapping[str, bytes]) -> None:
        """Replace all files."""
        self.swap(self.stage(files))

    def stage(self, files: Mapping[str, bytes]) -> Path:
        """Write the files of a new version, which nobody sees yet."""
        version = self.path / f"..version-{next(self._versions):04}"
        version.mkdir()
        write(version, files)
        return version

    def swap(self, version: Path) -> None:
        """Put a version in place of the one before, and remove that."""
        before = self._path_of_data.resolve() if self._path_of_data.exists() else None
        link = self.path / "..data_tmp"
        link.symlink_to(version.name)
        link.replace(self._path_of_data)
        for file in version.iterdir():
            visible = self.path / file.name
            if not visible.is_symlink():
                visible.symlink_to(Path("..data", file.name))
        if before is not None:
            shutil.rmtree(before)
