"""Does a trail verify? Rows, heads and anchors in; findings out (docs/audit.md).

- Nothing that is fed in is believed to be of its type: whoever changed a trail chose the values. A
  value that no sidecar wrote is a finding, never an exception.
- Rows come in the order of their place in the table, and are forgotten once they were looked at.
- What is found first is said first; of many problems all are counted and `MAX_LISTED` are kept.
- Without a signature a chain shows little, since anybody can compute one: what is not signed is a
  problem, except for the newest rows, which nobody had the time to sign.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from authz.core.audit import AuditRow
from authz.core.audit_chain import (
    HASH_BYTES,
    SIGNATURE_BYTES,
    Head,
    Link,
    anchor_message,
    head_message,
    is_whole,
)
from authz.core.text import word
from authz.core.timestamps import seconds_of

MAX_LISTED: Final = 20
#: Seconds that a signature may lie ahead of the clock it is compared with.
MAX_AHEAD_S: Final = 60.0
#: Seconds that rows may be newer than the newest head. One is signed each second; more than that is
#: for a disk, or another program's lock, that keeps the signer waiting.
MAX_UNSIGNED_S: Final = 300.0
#: seq, the columns, prev_hash and hash.
_WIDTH: Final = len(AuditRow._fields) + 3
_TIMESTAMP: Final = 1 + AuditRow._fields.index("timestamp")

#: Whether a signature (first) fits a message.
Fits = Callable[[bytes, bytes], bool]


class Problem(NamedTuple):
    """Why a trail does not verify."""

    #: edited, deleted, inserted, order, rewritten, truncated, signature, unknown_key, unsigned,
    #: anchor, head, rolled_back, too_old, or unreadable (said by whoever reads the file).
    kind: str
    #: One sentence.
    message: str
    #: The rows that it is about; None where it is about none.
    first: int | None = None
    last: int | None = None


class Report(NamedTuple):
    """What was found."""

    #: Rows that were looked at, and the numbers of the first and last of them; 0 without any.
    rows: int
    first: int
    last: int
    #: The first `MAX_LISTED` of `problem_count`.
    problems: list[Problem]
    problem_count: int
    #: What one should know, and is no problem.
    notes: list[str]
    #: The newest head whose signature is good, and its age in seconds.
    head: Head | None
    age_s: float | None
    #: That head says that the sidecar stopped cleanly, and no row follows it.
    clean_stop: bool

    @property
    def verified(self) -> bool:
        """Nothing is wrong."""
        return self.problem_count == 0


class TrailVerifier:
    """Looks at one trail: made with what is signed, fed with the rows, asked for the report."""

    def __init__(
        self,
        anchors: Sequence[Sequence[object]],
        heads: Sequence[Sequence[object]],
        keys: Mapping[str, Fits],
        *,
        kept: Head | None = None,
    ) -> None:
        """
        Args:
            anchors: the fields of `Anchor`, of each row of its table.
            heads: the fields of `Head`, oldest first.
            keys: what each key id verifies with.
            kept: a head of this trail that was kept elsewhere.
        """
        self._keys = keys
        self._problems: list[Problem] = []
        self._count = 0
        self._notes: list[str] = []
        self._rows = 0
        self._first = 0
        self._retired = False
        self._begin = self._anchor(anchors)
        self._last: int | None = self._begin.seq if self._begin else None
        #: None: nobody can know which hash the next row should follow.
        self._hash: bytes | None = self._begin.hash if self._begin else None
        #: The last row that a signature vouches for, with everything before it.
        self._signed = self._begin.seq if self._begin else 0
        self._newest: Head | None = None
        #: Heads whose row has not been seen yet.
        self._waiting: dict[int, list[Head]] = {}
        self._heads(heads)
        self._kept = kept
        if kept is not None:
            self._keep(kept)
        self._horizon = max(self._waiting, default=self._signed)
        self._tail_from = ""
        self._tail_to: object = ""

    def _say(
        self, kind: str, message: str, first: int | None = None, last: int | None = None
    ) -> None:
        self._count += 1
        if len(self._problems) < MAX_LISTED:
            self._problems.append(Problem(kind, message, first, last))

    def problem(self, problem: Problem) -> None:
        """Add what the reader of the file found."""
        self._say(*problem)

    def note(self, sentence: str) -> None:
        """Add what the reader of the file noticed."""
        self._notes.append(sentence)

    # What is signed.

    def _anchor(self, found: Sequence[Sequence[object]]) -> Link | None:
        if not found:
            self._say("anchor", "the anchor is missing: nothing says where the trail begins")
            return None
        if len(found) > 1:
            self._say("anchor", f"there are {len(found)} anchors, and a trail has one")
        seq, digest, at, reason, key_id, signature = found[-1]
        if not (_is_link(seq, digest) and isinstance(at, str) and isinstance(reason, str)):
            self._say("anchor", "the anchor is damaged: no sidecar wrote these values")
            return None
        link = Link(seq, digest)  # type: ignore[arg-type]
        if key_id is None and signature is None:
            self._say(
                "unsigned",
                "the anchor is not signed: who could write the file could have removed older rows",
            )
        else:
            self._fits("the anchor", key_id, signature, anchor_message(link, at, reason))
        if reason == "upgrade":
            self._notes.append(
                f"the rows written before {word(at)} were chained then, by an upgrade; that they"
                " were not changed before cannot be shown"
            )
        elif reason == "retention":
            self._retired = True
            self._notes.append(f"the rows up to {link.seq} were removed by retention")
        return link

    def _heads(self, found: Sequence[Sequence[object]]) -> None:
        for number, (seq, digest, at, final, key_id, signature) in enumerate(found, 1):
            shaped = _is_link(seq, digest) and isinstance(at, str) and final in (0, 1)
            if not (shaped and isinstance(key_id, str) and isinstance(signature, bytes)):
                self._say("head", f"head {number} is damaged: no sidecar wrote these values")
                continue
            head = Head(seq, digest, at, int(final == 1), key_id, signature)  # type: ignore[arg-type]
            if self._fits(f"the head of row {head.seq}", key_id, signature, _signed_by(head)):
                self._newest = head
                self._expect(head)
        if self._newest is None:
            self._say(
                "unsigned",
                "no head is signed by a key that is known: who could write the file could have"
                " written all of it",
            )

    def _keep(self, kept: Head) -> None:
        if not self._fits("the head given", kept.key_id, kept.signature, _signed_by(kept)):
            return
        if self._begin is not None and kept.seq < self._begin.seq:
            if self._retired:
                self._notes.append(
                    f"the head given is of row {kept.seq}, which retention has removed since"
                )
            else:
                self._say(
                    "rolled_back",
                    f"the head given is of row {kept.seq}, and this trail begins behind it, not by"
                    " retention: it is another one",
                )
        self._expect(kept)

    def _expect(self, head: Head) -> None:
        if self._begin is None or head.seq > self._begin.seq:
            self._waiting.setdefault(head.seq, []).append(head)
        elif head.seq == self._begin.seq and head.hash != self._begin.hash:
            self._say(
                "anchor",
                f"the anchor is not row {head.seq} as it was signed at {word(head.at)}: this is"
                " another trail, or its beginning was replaced",
            )

    def _fits(self, what: str, key_id: object, signature: object, message: bytes) -> bool:
        if not isinstance(key_id, str) or not isinstance(signature, bytes):
            self._say("signature", f"{what} has no signature that a sidecar wrote")
            return False
        fits = self._keys.get(key_id)
        if fits is None:
            self._say(
                "unknown_key",
                f"{what} is signed with the key {word(key_id)}, whose public half was not given",
            )
            return False
        if len(signature) != SIGNATURE_BYTES or not fits(signature, message):
            self._say("signature", f"{what} has a signature that does not fit it")
            return False
        return True

    # The rows.

    def feed(self, rows: Iterable[Sequence[object]]) -> None:
        """Look at rows: the rowid, then `seq`, the columns of `AuditRow`, prev_hash and hash."""
        for rowid, *row in rows:
            self._rows += 1
            seq = row[0]
            if seq != rowid or not isinstance(seq, int) or len(row) != _WIDTH:
                self._say("edited", f"row {rowid} has a number that is not its own")
                continue
            if self._last is not None and seq <= self._last:
                self._say(
                    "inserted", f"row {seq} stands before the trail begins and is not part of it",
                    seq, seq,
                )  # fmt: skip
                continue
            if not self._first:
                self._first = seq
            self._row(seq, row)

    def _row(self, seq: int, row: Sequence[object]) -> None:
        if self._last is not None and seq > self._last + 1:
            missing = self._last + 1, seq - 1
            self._say("deleted", f"{_rows(*missing)} missing", *missing)
            self._hash = None
        previous, digest = row[-2:]
        self._last = seq
        if seq > self._horizon:
            self._tail_from = self._tail_from or word(str(row[_TIMESTAMP]))
            self._tail_to = row[_TIMESTAMP]
        if not _is_hash(previous) or not _is_hash(digest):
            self._say("edited", f"row {seq} was changed: it has no hashes as a sidecar writes them",
                      seq, seq)  # fmt: skip
            self._hash = digest if _is_hash(digest) else None  # type: ignore[assignment]
            return
        assert isinstance(previous, bytes)
        assert isinstance(digest, bytes)
        if self._hash is not None and previous != self._hash:
            self._say(
                "order",
                f"row {seq} does not follow the one before it: one of the two was changed, moved or"
                " put in",
                seq,
                seq,
            )
        if not is_whole(row):
            self._say("edited", f"row {seq} was changed: its hash does not fit what it says",
                      seq, seq)  # fmt: skip
        self._hash = digest
        if seq in self._waiting:
            self._compare(seq, digest)

    def _compare(self, seq: int, digest: bytes) -> None:
        other = next((head for head in self._waiting.pop(seq) if head.hash != digest), None)
        if other is not None:
            first = self._signed + 1
            self._say(
                "rewritten",
                f"{_rows(first, seq)} not what was signed: row {seq} had another hash at"
                f" {word(other.at)}",
                first,
                seq,
            )
        self._signed = seq

    # The end.

    def report(self, now: float, max_age_s: float | None = None) -> Report:
        """What was found; to be asked for once, when all rows were fed.

        Args:
            now: seconds since the epoch.
            max_age_s: an older newest head is a problem.
        """
        last = self._last or 0
        beyond = [head for seq, heads in self._waiting.items() if seq > last for head in heads]
        if beyond:
            head = max(beyond, key=lambda head: head.seq)
            missing = last + 1, head.seq
            cut = f"{_rows(*missing)} missing at the end: row {head.seq} was signed at"
            if head is self._kept:
                self._say("rolled_back", f"{cut} {word(head.at)}, says the head given", *missing)
            else:
                self._say("truncated", f"{cut} {word(head.at)}", *missing)
        unsigned = last - max(self._signed, self._newest.seq if self._newest else 0)
        if unsigned > 0 and self._newest is not None:
            self._notes.append(
                f"the newest {unsigned} rows, from {self._tail_from or 'row ' + str(last)} on, are"
                " not signed yet: who could write the file could have put them there"
            )
            if not self._soon_enough(self._newest):
                self._say(
                    "unsigned",
                    f"the newest rows are not signed, over {MAX_UNSIGNED_S:.0f} s after the newest"
                    " head: it is not the last one that was signed, or the key could not be used",
                )
        age = self._age(now, max_age_s)
        newest = self._newest
        return Report(
            rows=self._rows,
            first=self._first,
            last=last if self._rows else 0,
            problems=self._problems,
            problem_count=self._count,
            notes=self._notes,
            head=newest,
            age_s=age,
            clean_stop=newest is not None and newest.final == 1 and newest.seq == last,
        )

    def _soon_enough(self, newest: Head) -> bool:
        """Whether the last row is of a time at which there need not have been a newer head."""
        try:
            return seconds_of(str(self._tail_to)) - seconds_of(newest.at) <= MAX_UNSIGNED_S
        except (ValueError, OverflowError):
            return False

    def _age(self, now: float, max_age_s: float | None) -> float | None:
        if self._newest is None:
            return None
        try:
            age = now - seconds_of(self._newest.at)
        except (ValueError, OverflowError):
            self._say("head", "the newest head has no time")
            return None
        if age < -MAX_AHEAD_S:
            self._notes.append(f"the newest head was signed {-age:.0f} s in the future")
        if max_age_s is not None and age > max_age_s:
            self._say(
                "too_old",
                f"the newest head was signed {age:.0f} s ago, and {max_age_s:.0f} s are allowed:"
                " the sidecar stopped, or the trail was put back to an earlier state",
            )
        return age


def _signed_by(head: Head) -> bytes:
    return head_message(Link(head.seq, head.hash), head.at, head.final == 1)


def _is_hash(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == HASH_BYTES


def _is_link(seq: object, digest: object) -> bool:
    return isinstance(seq, int) and seq >= 0 and _is_hash(digest)


def _rows(first: int, last: int) -> str:
    return f"row {first} is" if first == last else f"rows {first} to {last} are"
