"""The mode, and the secrets that decisions and the admin API stand on."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from authz.cli.doctor.facts import Facts, FileFacts, Inside, Secret
from authz.cli.doctor.finding import Finding, failed, passed, skipped, warned
from authz.core.mode import Mode
from authz.settings import HOW_TO_MAKE, MIN_ADMIN_TOKEN, MIN_JWT_SECRET

#: What documents show in the place of a secret, this product's own among them.
_SHOWN: Final = re.compile(
    r"your[-_ ]|change[-_ ]?me|example|placeholder|password|secret|default|insecure|"
    r"production|development|admin|token|12345678|qwerty|x{6}|dummy|test",
    re.IGNORECASE,
)
#: Bits that there seem to be to guess, by how often characters come: below the first it repeats
#: itself, below the second it is short. What `openssl rand -hex 16` makes has about 110.
_LEAST_BITS: Final = 48.0
_ENOUGH_BITS: Final = 80.0
_LEAST: Final = {"JWT_SECRET": MIN_JWT_SECRET, "ADMIN_TOKEN": MIN_ADMIN_TOKEN}


def mode(facts: Facts) -> Iterator[Finding]:
    """What happens to what policies deny."""
    live = str(facts.said.get("mode", ""))
    if live == Mode.BYPASS:
        yield failed(
            "bypass: nothing is evaluated and nothing is recorded",
            "set MODE, or what MODE_FILE holds, to audit or enforce, or run `authz mode set`",
        )
    elif live == Mode.AUDIT:
        yield warned(f"audit: nothing is blocked{_would_deny(facts)}", _TUNE)
    elif live == Mode.ENFORCE:
        yield passed("enforce: what policies deny is blocked")
    else:
        yield failed("no mode is told", "look at `authz status`")
    if "mode" in facts.checks and facts.checks["mode"] != "ok":
        yield failed(f"MODE_FILE: {facts.checks['mode']}", "correct the file: it holds one word")
    inside = facts.inside
    if inside is not None and live and live != inside.mode:
        source = "MODE_FILE" if inside.has_mode_file else "MODE"
        yield warned(
            f"{source} says {inside.mode}: it was switched while it ran",
            f"set {source} to {live} too, or a restart brings {inside.mode} back",
        )


_TUNE: Final = (
    "look at `authz audit query --decision deny`, tune the policies, and set MODE to enforce"
)


def _would_deny(facts: Facts) -> str:
    found = facts.inside.audit.would_deny if facts.inside is not None else None
    if found is None:
        return ""
    if not found.denials:
        return ", and nothing would have been denied so far"
    least = "at least " if found.more else ""
    were = "request" if found.denials == 1 else "requests"
    return f"; {least}{found.denials} {were} would have been denied since {found.since}"


def secrets(facts: Facts) -> Iterator[Finding]:
    """Whether the secrets are there, strong, apart from each other, and kept."""
    inside = facts.inside
    if inside is None:
        yield skipped()
        return
    given = {secret.name: secret for secret in inside.secrets}
    if "JWT_SECRET" in given:
        yield strength(given["JWT_SECRET"])
    elif inside.has_jwks:
        yield passed("tokens are verified with public keys (JWKS_FILE), and none can be made here")
    elif inside.dev_secrets is None:
        yield failed(
            "JWT_SECRET is not in this environment",
            "run `authz doctor` with the sidecar's own environment: in its container, or its unit",
        )
    if "ADMIN_TOKEN" in given:
        yield strength(given["ADMIN_TOKEN"])
        yield from _admin(inside)
        if "JWT_SECRET" in given and given["JWT_SECRET"].value == given["ADMIN_TOKEN"].value:
            yield failed(
                "ADMIN_TOKEN and JWT_SECRET are the same",
                f"make another ADMIN_TOKEN: {HOW_TO_MAKE['ADMIN_TOKEN']}",
            )
    elif inside.dev_secrets is None:
        yield passed("ADMIN_TOKEN is not set, and the admin API is off")
    if inside.dev_secrets is not None:
        if inside.dev_secrets_used:
            yield failed(
                f"development secrets are in use: {inside.dev_secrets}",
                "set JWT_SECRET and ADMIN_TOKEN, and start it without --insecure-dev-secrets or"
                " --demo",
            )
        else:
            yield warned(
                f"{inside.dev_secrets} is left of a demo, and is not in use", "remove the file"
            )
    for file in inside.private_files:
        yield readable(file)


def strength(secret: Secret) -> Finding:
    """Whether a secret could be guessed, or was copied from a document."""
    cure = f"make one, and keep it in a Secret: {HOW_TO_MAKE[secret.name]}"
    value, least = secret.value, _LEAST[secret.name]
    if len(value) < least:
        return failed(f"{secret.name} is shorter than {least} characters", cure)
    if shown := _SHOWN.search(value):
        word = shown[0].strip("-_ ").lower()
        return failed(f"{secret.name} has `{word}` in it, as a sample in a document has", cure)
    if bits(value) < _LEAST_BITS:
        return failed(f"{secret.name} repeats itself and could be guessed", cure)
    if bits(value) < _ENOUGH_BITS:
        return warned(f"{secret.name} has little to guess", cure)
    return passed(f"{secret.name} is set and looks random")


def bits(value: str) -> float:
    """How much there is to guess at most, by how often its characters come; 0 for a repetition."""
    if value in (value + value)[1:-1]:
        return 0.0
    counts, length = Counter(value), len(value)
    entropy = -sum(n / length * math.log2(n / length) for n in counts.values())
    steps = {ord(after) - ord(before) for before, after in itertools.pairwise(value)}
    # Characters in a row, such as abcdef, are as easy as one.
    return 0.0 if len(steps) <= 2 else entropy * length


def _admin(inside: Inside) -> Iterator[Finding]:
    match inside.admin_status:
        case 200:
            yield passed("the sidecar takes this ADMIN_TOKEN")
        case 401:
            yield warned(
                "the sidecar runs with another ADMIN_TOKEN than this environment's",
                "restart it with the new one, or run `authz doctor` with its own environment",
            )
        case 404:
            yield warned(
                "ADMIN_TOKEN is set here, and the sidecar's admin API is off",
                "restart it, if it is to have one",
            )


def readable(file: FileFacts) -> Finding:
    """Whether others may read a file with a secret in it."""
    if file.mode & 0o002:
        return failed(f"everybody may write {file.name}", f"chmod o-rwx {file.path}")
    if file.mode & 0o004:
        return failed(
            f"everybody may read {file.name}",
            f"chmod o-rwx {file.path}, or in Kubernetes defaultMode: 0440 for its volume",
        )
    return passed(f"{file.path} is closed to others")
