"""The whole path of a request, in one place.

    CheckRequest bytes → Call → Identity → Case → Verdict → mode → AuditRow, committed → bytes

- No answer leaves before its row is durable. Where the row cannot be written, the answer says so
  (`audit_unavailable`), unless AUDIT_ON_FAILURE=allow or the mode never blocks.
- One call or one batch takes the snapshot reference once.
- A batch is decided inside the transaction that records it: what it reads of the ledger is what is
  true, nobody else changes that meanwhile, and what a call uses up the next one does not have.
- What one call breaks, it breaks for itself: the others of its batch are decided and recorded.
- `check` and `check_all` never raise: an edge has nothing better to say than we do.
- Observers hear of a decision when it is durable and before its answer leaves; what they break
  stays theirs.
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from authz.core import call as calls
from authz.core import reply, verdict
from authz.core.audit import AuditRow, overload_row, row_of
from authz.core.call import Call
from authz.core.case import Case
from authz.core.environment import Environment
from authz.core.errors import AuditUnavailable, Code
from authz.core.identity import NOT_LOOKED_AT, TokenVerifier, Unidentified
from authz.core.ledger import Change, LedgerFull
from authz.core.mode import Mode
from authz.core.outcome import Outcome
from authz.core.report import REPORTS, Report, report_row
from authz.core.snapshot import Snapshot
from authz.core.sources import OUTWARD
from authz.core.stages import CHAIN
from authz.core.stages.stage import Stage
from authz.core.tracing import Trace
from authz.core.verdict import BYPASSED, Decision

log = logging.getLogger(__name__)

_NO_POLICIES: Final = Snapshot(())


class Recorder(Protocol):
    """Where rows become durable, and what the ledger says with them."""

    def begin(self) -> None:
        """Take what others have changed, and keep them from more; or raise `AuditUnavailable`."""

    def write(self, rows: Sequence[AuditRow], changes: Sequence[Change] = ()) -> None:
        """Commit all of these, or none and raise `AuditUnavailable`."""

    def cancel(self) -> None:
        """End what was begun, with nothing written."""

    def missed(self, count: int) -> None:
        """Count decisions that were answered without a row."""


class Observer(Protocol):
    """Who is told of decisions, on the event loop's thread: in microseconds, or it hands on."""

    def decided(self, outcomes: Sequence[Outcome], commit_ns: int) -> None:
        """These were decided together.

        Args:
            commit_ns: nanoseconds that their rows took to become durable; 0 where they have none.
        """

    def turned_away(self, mode: Mode) -> None:
        """A call was not judged, because too many waited already."""


class Tracer(Protocol):
    """Who tells traces of decisions, on the event loop's thread: as an `Observer`."""

    def begin(
        self, call: Call, chain: Sequence[Stage], decision_id: str, now: float, started_ns: int
    ) -> Trace | None:
        """A decision begins; None where nothing is told of it.

        Args:
            chain: that it will run; a trace has one that writes down when each stage ran.
            now: seconds since the epoch, and `started_ns` the same on the gate's monotonic clock.
        """

    def decided(self, outcomes: Sequence[Outcome], commit_started_ns: int, commit_ns: int) -> None:
        """These were decided together; their rows became durable within so many nanoseconds."""


class Gate:
    """Decides and records. Not thread-safe: one event loop calls it."""

    def __init__(
        self,
        *,
        snapshot: Callable[[], Snapshot],
        tokens: TokenVerifier,
        recorder: Recorder,
        environment: Environment,
        mode: Mode,
        now: Callable[[], float],
        monotonic_ns: Callable[[], int],
        new_id: Callable[[], str],
        steady_offset: float = 0.0,
        proxy_authorization: str = "",
        allow_unrecorded: bool = False,
        chain: Sequence[Stage] = CHAIN,
        observers: Sequence[Observer] = (),
        tracer: Tracer | None = None,
    ) -> None:
        """
        Args:
            environment: what is judged with besides the policies.
            now: seconds since the epoch.
            monotonic_ns: nanoseconds of a clock that never steps back, for latencies.
            steady_offset: seconds that make of that clock the steady one (`core/ledger.py`).
            proxy_authorization: the upstream's `Authorization`, or empty.
            allow_unrecorded: AUDIT_ON_FAILURE=allow.
        """
        self.mode = mode
        self._snapshot = snapshot
        self._tokens = tokens
        self._recorder = recorder
        self._environment = environment
        self._ledger = environment.state.ledger
        self._steady_offset = steady_offset
        self._now = now
        self._monotonic_ns = monotonic_ns
        self._new_id = new_id
        self._proxy_authorization = proxy_authorization
        self._allow_unrecorded = allow_unrecorded
        self._chain = chain
        self.tracer: Final = tracer
        traced = functools.partial(calls.from_check_request, traced=True)
        self._read: Callable[[bytes], Call] = calls.from_check_request if not tracer else traced
        self.observers: Final = tuple(observers)
        #: Nanoseconds that the last rows took to become durable, and when that began.
        self._commit_ns = 0
        self._commit_started_ns = 0
        #: Calls turned away that no row tells of yet, and what they are told under each mode.
        self._turned_away = 0
        self._away: dict[Mode, bytes] = {}

    def check(self, raw: bytes) -> bytes:
        """Answer one ext_authz call: CheckRequest bytes in, CheckResponse bytes out."""
        return self.check_all((raw,))[0]

    def check_all(self, raws: Sequence[bytes]) -> list[bytes]:
        """Answer calls that came together: one snapshot, one commit, and their answers in order."""
        try:
            outcomes = self.batch([*map(self._read, raws)])
        except Exception:
            # Nothing is recorded yet, so each can be tried by itself.
            log.exception("a CheckRequest could not be answered")
            if len(raws) > 1:
                return [self.check(raw) for raw in raws]
            outcomes = [self._last_resort()]
        return [self._reply(outcome) for outcome in outcomes]

    def turn_away(self) -> bytes:
        """The answer to a call that is not judged, because too many wait already.

        It costs next to nothing, and so has no row of its own: how many there were is recorded with
        the next batch that can be.
        """
        mode = self.mode
        for observer in self.observers:
            try:
                observer.turned_away(mode)
            except Exception:
                log.exception("an observer failed")
        if mode is not Mode.BYPASS:
            self._turned_away += 1
            with contextlib.suppress(Exception):
                self._recorder.missed(1)
        if mode not in self._away:
            self._away[mode] = self._reply(
                self._undecided(mode, Code.OVERLOADED, "too many calls wait for a decision")
            )
        return self._away[mode]

    def close(self) -> None:
        """Record what no batch came for: calls that were turned away since the last one.

        Also in bypass mode, since it was in another one that they were.
        """
        if not self._turned_away:
            return
        row = self._turned_away_row(self._snapshot(), self.mode)
        try:
            self._recorder.write([row])
        except Exception:
            log.exception("the calls that were turned away last have no row")
        else:
            self._turned_away = 0

    @property
    def is_traced(self) -> bool:
        """Whether the trace that a call belongs to means anything."""
        return self.tracer is not None

    def refuses(self, call: Call) -> bool:
        """Whether this caller is turned away whatever it asks, so that its body is not read."""
        caller = self._tokens.identify(call.authorization, self._now())
        return self.mode is Mode.ENFORCE and isinstance(caller, Unidentified)

    def batch(self, asked: Sequence[Call], snapshot: Snapshot | None = None) -> list[Outcome]:
        """Decide calls against one snapshot, in order, and commit their rows together.

        `snapshot`: which, if not the one that is in force now.
        """
        if snapshot is None:
            snapshot = self._snapshot()
        self._commit_ns = 0
        outcomes = self._batch(asked, snapshot)
        if self.observers:
            self._tell(outcomes)
        if self.tracer is not None:
            self._trace(self.tracer, outcomes)
        return outcomes

    def _batch(self, asked: Sequence[Call], snapshot: Snapshot) -> list[Outcome]:
        mode = self.mode
        if mode is Mode.BYPASS or not asked:
            return [self._decide(call, snapshot, mode) for call in asked]
        recorder, ledger = self._recorder, self._ledger
        failure = ""
        try:
            recorder.begin()
        except AuditUnavailable as error:
            failure = str(error)
        try:
            outcomes = [self._decide(call, snapshot, mode) for call in asked]
            if failure:
                return self._unrecorded(outcomes, Code.AUDIT_UNAVAILABLE, failure)
            self._environment.state.tick(outcomes[0].steady)
            also = [self._turned_away_row(snapshot, mode)] if self._turned_away else []
            started = self._monotonic_ns()
            recorder.write([*map(row_of, outcomes), *also], ledger.changes())
            self._commit_ns = self._monotonic_ns() - started
            self._commit_started_ns = started
        except AuditUnavailable as error:
            return self._unrecorded(outcomes, Code.AUDIT_UNAVAILABLE, str(error))
        except Exception:
            log.exception("recording a decision failed")
            recorder.cancel()
            ledger.undo()
            return self._one_by_one(asked, snapshot, mode)
        except BaseException:
            recorder.cancel()
            ledger.undo()
            raise
        ledger.keep(durable=True)
        if also:
            self._turned_away = 0
        return outcomes

    def report(self, call: Call, reports: Sequence[Report]) -> tuple[Outcome, int]:
        """Commit what an agent tells, all of it or nothing.

        Args:
            call: the request that brings it.

        Returns:
            What is decided about taking it, which follows the mode as every decision does, and how
            many entries are durable: all of them, or none.
        """
        self._commit_ns = 0
        outcome, taken = self._report(call, reports)
        if self.observers:
            self._tell([outcome])
        if self.tracer is not None:
            self._trace(self.tracer, [outcome])
        return outcome, taken

    def _report(self, call: Call, reports: Sequence[Report]) -> tuple[Outcome, int]:
        snapshot, mode, recorder = self._snapshot(), self.mode, self._recorder
        if mode is Mode.BYPASS:
            return self._decide(call, snapshot, mode), 0
        failure = ""
        try:
            # Before it is decided who this is: whoever was revoked elsewhere is nobody.
            recorder.begin()
        except AuditUnavailable as error:
            failure = str(error)
        outcome = self._decide(call, snapshot, mode, REPORTS)
        is_taken = outcome.enforced is Decision.ALLOW
        try:
            if failure:
                raise AuditUnavailable(failure)
            rows = [row_of(outcome)]
            if is_taken:
                rows = [report_row(outcome, report, self._new_id()) for report in reports]
            started = self._monotonic_ns()
            recorder.write(rows)
            self._commit_ns = self._monotonic_ns() - started
            self._commit_started_ns = started
        except AuditUnavailable as error:
            return self._unrecorded([outcome], Code.AUDIT_UNAVAILABLE, str(error))[0], 0
        except Exception:
            log.exception("recording what an agent tells failed")
            recorder.cancel()
            said = "recording what was told failed"
            return self._unrecorded([outcome], Code.INTERNAL, said)[0], 0
        return outcome, len(reports) if is_taken else 0

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        for observer in self.observers:
            try:
                observer.decided(outcomes, self._commit_ns)
            except Exception:
                # Whoever only looks on must not change an answer.
                log.exception("an observer failed")

    def _trace(self, tracer: Tracer, outcomes: Sequence[Outcome]) -> None:
        try:
            tracer.decided(outcomes, self._commit_started_ns, self._commit_ns)
        except Exception:
            log.exception("a trace could not be told")

    def _one_by_one(self, asked: Sequence[Call], snapshot: Snapshot, mode: Mode) -> list[Outcome]:
        """The calls of a batch that could not be recorded: perhaps only one of them cannot be."""
        if len(asked) > 1 or (asked and self._turned_away):
            turned_away, self._turned_away = self._turned_away, 0
            outcomes = [outcome for call in asked for outcome in self._batch([call], snapshot)]
            self._turned_away += turned_away
            return outcomes
        outcomes = [self._decide(call, snapshot, mode) for call in asked]
        return self._unrecorded(outcomes, Code.INTERNAL, "recording the decision failed")

    def _turned_away_row(self, snapshot: Snapshot, mode: Mode) -> AuditRow:
        return overload_row(
            row_id=self._new_id(),
            at=self._now(),
            count=self._turned_away,
            mode=mode,
            policy_version=snapshot.version,
        )

    def _decide(
        self, call: Call, snapshot: Snapshot, mode: Mode, chain: Sequence[Stage] = ()
    ) -> Outcome:
        """`chain`: which, if not the one that decides about actions."""
        started = self._monotonic_ns()
        now = self._now()
        steady = self._steady_offset + started / 1e9
        environment, ledger = self._environment, self._ledger
        case = None
        mark = ledger.mark
        decision_id = self._new_id()
        trace_id = call.trace_id or decision_id
        trace = None
        chain = chain or self._chain
        if self.tracer is not None and mode is not Mode.BYPASS:
            try:
                trace = self.tracer.begin(call, chain, decision_id, now, started)
            except Exception:
                log.exception("a trace could not begin")
            if call.parent is not None:
                trace_id = call.trace_id or call.parent.trace_id
        try:
            if call.source in OUTWARD:
                caller = self._tokens.identify_outward(call.authorization, now)
                call = self._without_ours(call, now)
            else:
                caller = self._tokens.identify(call.authorization, now)
            case = Case.of(call, caller, snapshot, environment, now, steady)
            if trace is not None:
                chain = trace.chain
            decided = BYPASSED if mode is Mode.BYPASS else verdict.judge(case, chain)
            if decided.more is not None:
                for change in decided.more.puts:
                    ledger.put(change)
                if "fuseOpened" in decided.more.notes:
                    said = "the fuse of delegation %s is open now"
                    log.warning(said, case.delegation_id, extra=_traced(call))
        except LedgerFull as full:
            ledger.undo(mark)
            log.error("a call could not be decided: %s", full)
            decided = verdict.failed(Code.OVERLOADED, str(full))
        except Exception:
            # The traceback is for us; the caller learns that it was not a denial.
            ledger.undo(mark)
            log.exception("a stage failed", extra=_traced(call))
            decided = verdict.failed(Code.INTERNAL, "the decision failed inside the service")
        if case is None:
            case = Case(call, NOT_LOOKED_AT, snapshot, environment, now, steady)
        return Outcome(
            case=case,
            verdict=decided,
            mode=mode,
            enforced=verdict.enforced(decided, mode),
            decision_id=decision_id,
            trace_id=trace_id,
            decided_at=now,
            latency_us=(self._monotonic_ns() - started) // 1000,
            steady=steady,
            trace=trace,
        )

    def _without_ours(self, call: Call, now: float) -> Call:
        """The call without a token of ours that was put where the upstream's credential belongs."""
        credential = call.upstream_authorization
        if not credential or not self._tokens.is_ours(credential, now):
            return call
        return call._replace(governance_headers=(*call.governance_headers, "authorization"))

    def _unrecorded(self, outcomes: list[Outcome], code: Code, reason: str) -> list[Outcome]:
        self._recorder.missed(len(outcomes))
        if self._allow_unrecorded:
            self._ledger.keep(durable=False)
            return outcomes
        failure = verdict.failed(code, reason)
        if outcomes and verdict.enforced(failure, outcomes[0].mode) is Decision.ALLOW:
            # They pass, so what they used up is used up, although nobody could write it down yet.
            self._ledger.keep(durable=False)
            return outcomes
        self._ledger.undo()
        return [outcome._replace(verdict=failure, enforced=Decision.ERROR) for outcome in outcomes]

    def _reply(self, outcome: Outcome) -> bytes:
        try:
            return reply.check_response(outcome, self._proxy_authorization)
        except Exception:
            log.exception("an answer could not be written")
            return reply.check_response(self._last_resort(), self._proxy_authorization)

    def _last_resort(self) -> Outcome:
        """An answer that needs nothing which may just have failed, for a call without a row."""
        with contextlib.suppress(Exception):
            self._recorder.missed(1)
        return self._undecided(self.mode, Code.INTERNAL, "the service could not answer")

    def _undecided(self, mode: Mode, code: Code, reason: str) -> Outcome:
        failure = verdict.failed(code, reason)
        return Outcome(
            case=Case(
                calls.unreadable("proxy", reason),
                NOT_LOOKED_AT,
                _NO_POLICIES,
                self._environment,
                0.0,
                0.0,
            ),
            verdict=failure,
            mode=mode,
            enforced=verdict.enforced(failure, mode),
            decision_id="none",
            trace_id="none",
            decided_at=0.0,
            latency_us=0,
            steady=0.0,
        )


def _traced(call: Call) -> dict[str, str] | None:
    """What a log line has besides its sentence, so that it is found by the caller's trace."""
    return {"trace_id": call.trace_id} if call.trace_id else None
