"""What lies on disk: the policies that judge, and the audit trail that remembers."""

from collections.abc import Iterator
from typing import Final

from authz.cli.doctor.facts import Audit, Facts, Inside, Policies, Volume
from authz.cli.doctor.finding import Finding, failed, passed, skipped, warned
from authz.core.mode import Mode
from authz.stores.audit_schema import WAL_LIMIT

_MIB: Final = 1 << 20
#: Below this the trail may be full within a day: a row has about half a kilobyte.
LEAST_FREE: Final = 64 * _MIB
LEAST_SHARE: Final = 0.05
#: The end is signed each second while there are rows, and each minute otherwise.
SIGNED_S: Final = 180.0
#: The WAL is begun anew from its limit on; under load it may be over it for a while.
WAL_ALLOWED: Final = 2 * WAL_LIMIT
_IN_MEMORY: Final = ("tmpfs", "ramfs")
#: How a pod's emptyDir can be told by where it comes from.
_EMPTY_DIR: Final = "kubernetes.io~empty-dir"


def policies(facts: Facts) -> Iterator[Finding]:
    """Whether there are policies, and whether they can be changed from here."""
    yield from _loaded(facts)
    bundle = facts.said.get("bundle")
    if facts.inside is None:
        yield skipped()
    elif isinstance(bundle, dict) and bundle.get("signed"):
        yield passed("they come from a signed bundle, whoever may write where it lies")
    else:
        yield from _mounted(facts.inside.policies)


def _loaded(facts: Facts) -> Iterator[Finding]:
    said = facts.checks.get("policies", "")
    ready = facts.ready.body if facts.ready is not None else {}
    if said == "ok":
        count, version = ready.get("policies"), ready.get("policyVersion")
        what = f"{count} loaded, version {version}" if count else "loaded"
        yield passed(f"policies: {what}")
    elif said.startswith("ok"):
        yield warned(
            f"policies: {said.removeprefix('ok').strip(', ')}",
            "correct the files that are named (`authz policy validate`), or end the pin"
            " (`authz policy unpin`)",
        )
    elif said:
        yield failed(
            f"policies: {said}",
            "put policies into POLICIES_DIR, or a good bundle at POLICY_BUNDLE, and try them with"
            " `authz policy validate`; until then every request is denied",
        )
    else:
        yield failed("nothing is told of policies", "look at `authz status`")


def _mounted(there: Policies) -> Iterator[Finding]:
    mount = "mount them read-only: a ConfigMap, or `:ro` in compose"
    if there.volume is None:
        yield failed(f"{there.path} is not there", f"set POLICIES_DIR, and {mount}")
        return
    if there.volume.read_only:
        yield passed(f"{there.path} is mounted read-only")
        return
    open_files = [file for file in there.files if file.mode & 0o002]
    if open_files:
        more = f" and {len(open_files) - 1} more" if len(open_files) > 1 else ""
        yield failed(
            f"everybody may write {open_files[0].name}{more}",
            f"chmod -R o-w {there.path}, and {mount}",
        )
    elif there.ours_to_write:
        yield warned(f"{there.path} can be written by the user of the sidecar", mount)
    else:
        yield passed(f"{there.path} cannot be written by the user of the sidecar")


def audit(facts: Facts) -> Iterator[Finding]:
    """Whether what is recorded stays."""
    if facts.said.get("mode") != Mode.BYPASS or "database" in facts.checks:
        yield _written(facts)
    lost = facts.said.get("unrecorded")
    if lost:
        yield failed(
            f"{lost} decisions since the start have no row",
            "look at the log from when the store failed, and at AUDIT_ON_FAILURE",
        )
    if facts.inside is None:
        yield skipped()
        return
    there = facts.inside.audit
    yield from persisted(there.volume, facts.inside, there)
    yield from _room(there.volume)
    yield from _file(there, facts.inside.uid)
    if there.on_failure == "allow":
        yield warned(
            "AUDIT_ON_FAILURE is allow: requests are allowed without a row while none can be"
            " written",
            "set it to deny, unless being available matters more than the trail",
        )
    if there.retention_days:
        yield passed(f"rows are kept {there.retention_days} days (AUDIT_RETENTION_DAYS)")
    else:
        yield warned(
            "rows are kept for ever, and the volume fills",
            "set AUDIT_RETENTION_DAYS, or watch the volume",
        )


def _written(facts: Facts) -> Finding:
    said = facts.checks.get("database", "")
    if said == "ok":
        return passed("rows can be written")
    return failed(
        f"rows cannot be written: {said.removeprefix('failing: ') or 'nothing is told of it'}",
        "the log's line that begins with AUDIT_DB_PATH names the file, its owner and the cure",
    )


def persisted(volume: Volume | None, inside: Inside, there: Audit) -> Iterator[Finding]:
    """Whether the file outlives the container."""
    cure = "mount a PersistentVolumeClaim or a named volume there"
    where = there.path.parent
    if volume is None:
        yield failed(f"{where} is not there", cure)
    elif volume.kind in _IN_MEMORY:
        yield failed(f"{where} is in memory ({volume.kind}), and gone with it", cure)
    elif inside.in_container and (volume.kind == "overlay" or volume.mount_point == "/"):
        yield failed(f"{where} is in the container's own layer, and gone with it", cure)
    elif _EMPTY_DIR in volume.root:
        yield warned(f"{where} is an emptyDir, and gone with the pod", cure)
    elif volume.read_only:
        yield failed(f"{where} is mounted read-only", "mount it to be written")
    else:
        yield passed(f"{where} is on {volume.kind}, mounted at {volume.mount_point}")


def _room(volume: Volume | None) -> Iterator[Finding]:
    if volume is None:
        return
    cure = "give it a larger volume, or lower AUDIT_RETENTION_DAYS"
    said = f"{volume.free // _MIB} MiB are free ({volume.free_share:.0%})"
    if volume.free < LEAST_FREE:
        yield failed(said, cure)
    elif volume.free_share < LEAST_SHARE or volume.free_files_share < LEAST_SHARE:
        files = f", and {volume.free_files_share:.0%} of its files"
        yield warned(said + (files if volume.free_files_share < LEAST_SHARE else ""), cure)
    else:
        yield passed(said)


def _file(there: Audit, uid: int) -> Iterator[Finding]:
    if there.file is None:
        yield failed(f"{there.path} is not there", "look at the log: it says why it was not made")
        return
    if there.file.mode & 0o007:
        yield failed(f"everybody may use {there.file.name}", f"chmod o-rwx {there.path}")
    elif there.file.uid != uid and uid:
        yield warned(
            f"{there.file.name} belongs to somebody else than us ({uid})",
            f"chown {uid} {there.path}, or run this as the user of the sidecar",
        )
    else:
        yield passed(f"{there.path} is closed to others")
    if there.wal_bytes > WAL_ALLOWED:
        yield warned(
            f"its WAL has {there.wal_bytes // _MIB} MiB",
            "look for a program that holds the database open for reading, and end it",
        )
    if there.signed_ago_s is None:
        yield failed(
            "the end of the trail was never signed",
            "the log's line that begins with AUDIT_KEY_FILE says why",
        )
    elif there.signed_ago_s > SIGNED_S:
        yield failed(
            f"the end of the trail was signed {there.signed_ago_s:.0f} s ago",
            "the log's line that begins with AUDIT_KEY_FILE, or AUDIT_DB_PATH, says why",
        )
    else:
        yield passed(f"the end of the trail was signed {there.signed_ago_s:.0f} s ago")
