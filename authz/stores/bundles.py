"""A signed bundle as what policies are read from: one file that is taken whole, or not at all.

- The bytes that were verified are the bytes that are parsed, from memory; nothing is unpacked to
  disk, and nothing is read a second time.
- What is not taken changes nothing: the policies of the last bundle go on, whatever has become of
  its file, its signature or the keys, and one sentence says why.
- A bundle with a policy file that has errors is refused whole while another is in force: what runs
  is one bundle, never one's denials and another's allowances. Where none is, at the start, its good
  files serve, as those of a directory do (the seed: one typo must not take governance down).
- The version floor is on disk before a bundle comes in force (`bundle_floor`).
- One that expires while it is in force goes on, and says so: to drop it would drop its denials.
  After a restart it is refused.
"""

import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from authz.bundles.accept import Accepted, accept
from authz.bundles.errors import BundleError, Reason
from authz.bundles.signature import PublicKeys
from authz.core.policy_bounds import is_policy_file
from authz.core.policy_file import Parsed, Problem
from authz.core.policy_set import PolicyFile, build
from authz.core.timestamps import rfc3339
from authz.stores.bundle_files import BundleFiles, Given, Unreadable
from authz.stores.bundle_floor import FloorFile, FloorUnusable
from authz.stores.pace import UNPACED, Pace
from authz.stores.parsing import Item, parse_here
from authz.stores.policies import Loaded, member_path

#: Seconds that a bundle may be there without the signature that goes with it before that counts:
#: the two are written one after the other.
PAIR_S: Final = 2.0
#: Seconds after which what was refused, or may expire, is looked at again: clocks are set.
LOOK_AGAIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Taken:
    """The bundle that was taken last."""

    #: Its bytes, and those of its signature file, as they were verified.
    data: bytes
    signature: bytes | None
    #: SHA-256 of `data`, hexadecimal.
    digest: str
    #: SHA-256 of the public key that signed it, hexadecimal; empty where nothing was verified.
    key_id: str
    #: Of its manifest; None, and empty, where it has none.
    version: int | None
    revision: str
    #: Seconds since the epoch.
    created: float | None
    not_after: float | None
    #: One sentence each.
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For sentences."""
        return "without a version" if self.version is None else f"version {self.version}"


class BundleState(NamedTuple):
    """What came of the last reading."""

    #: The bundle's file.
    path: Path
    #: None: none was taken since the start.
    taken: Taken | None
    #: Why what is on disk now is not what was taken; empty where it is.
    problem: str = ""
    #: That what was taken has expired since; empty where it has not.
    expired: str = ""


class PolicyBundle:
    """A bundle that is read again and again: a `PolicySource`. One thread at a time may read."""

    def __init__(
        self,
        at: BundleFiles,
        floor: FloorFile,
        parse: Callable[[Sequence[Item]], Iterator[Parsed]] = parse_here,
        *,
        require_signed: bool = False,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            parse: turns files, given as bytes and name, into what they hold, in order.
            now: seconds since the epoch.
        """
        self.path = at.bundle
        self.trees: Sequence[Path] = [path for path in at.keys if os.path.isdir(path)]  # noqa: PTH112
        keys = [path for path in at.keys if path not in self.trees]
        self.files: Sequence[Path] = (at.bundle, at.signature, *keys)
        self._at = at
        self._floor = floor
        self._parse = parse
        self._require_signed = require_signed
        self._now = now
        self._monotonic = monotonic
        self._loaded = Loaded(build([]), ())
        self._taken: Taken | None = None
        #: What was on disk when that was taken.
        self._taken_of: Given | None = None
        self._problem = ""
        #: What was refused last, by a digest of all of it, why, and when it was seen first.
        self._refused: tuple[bytes, str, float] = (b"", "", 0.0)
        #: What was parsed last, with the digest of what it was parsed from.
        self._parsed: dict[str, tuple[bytes, Parsed]] = {}

    def read(self, being_written: Collection[Path] = (), pace: Pace = UNPACED) -> Loaded:
        """Read the bundle, and take it if it may be. Never raises for what is, or is not, there."""
        if self._is_being_written(being_written):
            return self._as_it_is(PAIR_S)
        try:
            given = self._at.read()
        except Unreadable as error:
            return self._refuse(b"", str(error))
        if given == self._taken_of:
            return self._still_there()
        try:
            self._take(given, pace)
        except (BundleError, FloorUnusable, _Refused) as error:
            if isinstance(error, BundleError):
                if self._is_expired_only(given, error):
                    return self._still_there()
                return self._refuse(_digest(given), self._sentence(error), str(error.reason))
            return self._refuse(_digest(given), str(error))
        self._problem = ""
        self._refused = (b"", "", 0.0)
        return self._as_it_is()

    def signature(self, pace: Pace = UNPACED) -> object:
        """What is there now, without reading it."""
        del pace
        try:
            return self._at.marks()
        except Unreadable as error:
            return str(error)

    def _is_being_written(self, files: Collection[Path]) -> bool:
        pair = (self.path, self._at.signature)
        return bool(files) and any(Path(os.path.realpath(path)) in files for path in pair)

    def _take(self, given: Given, pace: Pace) -> None:
        accepted = _accepted(
            given, self._floor, now=self._now(), require_signed=self._require_signed
        )
        items = [
            (content, member_path(self.path, name))
            for name, content in accepted.contents.files.items()
            if is_policy_file(name)
        ]
        files = [
            PolicyFile(name, parsed.policies, chain=parsed.chain)
            for (_, name), parsed in pace.over(zip(items, self._parsed_of(items), strict=True))
        ]
        policies = build(files)
        found = (problem for _, parsed in self._parsed.values() for problem in parsed.problems)
        problems = tuple(sorted({*found, *policies.problems}))
        errors = [problem for problem in problems if problem.severity == "error"]
        if errors and self._taken is not None:
            raise _Refused(_in_error(self.path.name, errors))
        if not policies.snapshot.policies and not policies.snapshot.chain:
            why = f": {_short(errors[0])}" if errors else " file (*.yaml, *.yml)"
            raise _Refused(f"POLICY_BUNDLE: {self.path.name} has no valid policy{why}")
        self._floor.raise_to(accepted.floor)
        manifest = accepted.contents.manifest
        self._taken = Taken(
            given.data,
            given.signature,
            accepted.digest,
            accepted.key_id or "",
            manifest.version if manifest else None,
            manifest.revision if manifest else "",
            manifest.created if manifest else None,
            manifest.not_after if manifest else None,
            accepted.warnings,
        )
        self._taken_of = given
        self._loaded = Loaded(policies, problems, members=len(items))

    def _parsed_of(self, items: Sequence[Item]) -> list[Parsed]:
        """Parse what has changed since the last time."""
        digests = [hashlib.sha256(data).digest() for data, _ in items]
        known = self._parsed
        changed = [
            item
            for item, digest in zip(items, digests, strict=True)
            if known.get(item[1], (b"",))[0] != digest
        ]
        fresh = dict(zip((name for _, name in changed), self._parse(changed), strict=True))
        self._parsed = {
            name: (digest, fresh[name] if name in fresh else known[name][1])
            for (_, name), digest in zip(items, digests, strict=True)
        }
        return [parsed for _, parsed in self._parsed.values()]

    def _still_there(self) -> Loaded:
        """What was taken is on disk as it was; so must the floor be."""
        taken = self._taken
        assert taken is not None
        self._problem = ""
        self._refused = (b"", "", 0.0)
        try:
            self._floor.raise_to(None)
        except FloorUnusable as error:
            self._problem = str(error)
        return self._as_it_is()

    def _is_expired_only(self, given: Given, error: BundleError) -> bool:
        """Of the bundle that is in force, by keys or a signature that are new."""
        if error.reason is not Reason.EXPIRED or self._taken is None:
            return False
        return given.data == self._taken.data

    def _refuse(self, digest: bytes, sentence: str, reason: str = "") -> Loaded:
        """Leave what is in force; say why, where that lasts."""
        # What a clock says is in some sentences, and they go on saying the same.
        key = digest + (reason or sentence).encode()
        if self._refused[0] != key:
            self._refused = (key, sentence, self._monotonic())
        waited = self._monotonic() - self._refused[2]
        if self._taken is not None and waited < PAIR_S:
            return self._as_it_is(PAIR_S - waited)
        self._problem = self._refused[1]
        return self._as_it_is(LOOK_AGAIN_S)

    def _as_it_is(self, again_s: float = 0.0) -> Loaded:
        taken, now = self._taken, self._now()
        expired = ""
        if taken is not None and taken.not_after is not None:
            if now > taken.not_after:
                expired = (
                    f"POLICY_BUNDLE: {self.path.name}, {taken.name}, was to be used until"
                    f" {rfc3339(taken.not_after)}; it stays in force until the service stops, so"
                    " put a newer one there"
                )
            else:
                # A clock that is set moves this; so it is not waited for in one piece.
                left = min(taken.not_after - now + 0.1, LOOK_AGAIN_S)
                again_s = min(again_s or left, left)
        loaded = self._loaded
        state = BundleState(self.path, taken, self._problem, expired)
        return Loaded(
            loaded.policies, loaded.problems, members=loaded.members, bundle=state, again_s=again_s
        )

    def _sentence(self, error: BundleError) -> str:
        variable = "POLICY_BUNDLE_KEYS" if error.reason is Reason.KEY else "POLICY_BUNDLE"
        return f"{variable}: {self.path.name}: {error}"


class _Refused(Exception):
    """It is a good bundle of policies that are not; one sentence."""


def _accepted(given: Given, floor: FloorFile, *, now: float, require_signed: bool) -> Accepted:
    keys = None if given.keys is None else PublicKeys.parse(given.keys)
    return accept(
        given.data,
        given.signature,
        keys,
        now=now,
        floor=floor.read(),
        # Keys without a need for a signature would be no more than a decoration.
        require_signed=require_signed or keys is not None,
    )


def _digest(given: Given) -> bytes:
    parts = (given.data, given.signature or b"", *(key for _, key in given.keys or ()))
    return b"".join(hashlib.sha256(part).digest() for part in parts)


def _short(problem: Problem) -> str:
    return str(problem).rpartition("/")[2]


def _in_error(name: str, errors: Sequence[Problem]) -> str:
    count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
    return f"POLICY_BUNDLE: {name} has {count} and is not taken: {_short(errors[0])}"
