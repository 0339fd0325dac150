"""Policy files: YAML text to compiled documents, or problems with their place (CONTRACT §5).

- A file is taken whole or not at all: one error and none of its documents count.
- What we do not know is a warning with the nearest known name, and an error where ignoring it
  would allow more than was written: in the parts that restrict (`policy_doc.RESTRICTS`), for keys
  of other dialects that take something away, and for slips of the pen that come near to either. In
  the documents of other kinds (`chain_doc`) every key restricts, so all of it is an error there.
- A value in conditions that YAML 1.1 reads as something its author cannot have seen (`NO` is false,
  `010` is 8) is an error too: a denial of Norway would deny nobody. So are such numbers in the
  documents of other kinds.
- Problems read `file:line:column: error: sentence` and carry no values longer than a word.
"""

import difflib
import functools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from authz.core import lints, tiers, yaml_tree
from authz.core.chain_compiled import CompiledChain, compile_chain
from authz.core.chain_doc import CHAIN_KINDS, METHODS, RouteMapDoc
from authz.core.chain_model import ChainDoc, ChainModel
from authz.core.compiled import CompiledPolicy, compile_policy
from authz.core.lanes import LANES
from authz.core.policy_bounds import MAX_FILE as MAX_FILE  # noqa: PLC0414 - so do others
from authz.core.policy_doc import (
    MAX_NAME,
    METADATA,
    RESTRICTS,
    WRAPPER_VERSION,
    AppliesTo,
    PolicyDoc,
    Rule,
    RuleAudit,
    lower,
    spellings_of,
)
from authz.core.text import visible, word
from authz.core.yaml_tree import Node, Path, YamlError

#: Different unknown keys in one file; each is compared with the known ones.
MAX_UNKNOWN: Final = 2_000
#: Problems told of one file; the file's author will not read more.
MAX_PROBLEMS: Final = 100

#: Keys that change what a policy decides in some published dialect, and that are not evaluated
#: here. They are errors wherever they stand.
_NOT_EVALUATED: Final = frozenset(
    {
        "<<",
        "actionPattern",
        "agent_match",
        "budget",
        "context",
        "cost_ceiling",
        "default_rules",
        "deny",
        "disabled",
        "dryRun",
        "enabled",
        "enforce",
        "except",
        "exceptions",
        "exclude",
        "excludeActions",
        "expires",
        "expiresAt",
        "extends",
        "if",
        "methods",
        "minimumTrustTier",
        "minTier",
        "minTrustTier",
        "mode",
        "notActions",
        "principals",
        "requireApproval",
        "requiredTier",
        "requireTier",
        "requiresApproval",
        "resource",
        "resources",
        "rollout",
        "spec",
        "subjects",
        "tier",
        "trustTier",
        "unless",
        "validFrom",
        "validUntil",
        "when",
        "where",
    }
)
#: Known keys whose loss would allow more. What comes near them is an error, and so are they
#: themselves one level too high or too low.
_TAKES_AWAY: Final = frozenset(
    {
        "agentIds",
        "approval",
        "conditions",
        "delegation",
        "enforcement",
        "humanInTheLoop",
        "orgIds",
        "rateLimit",
        "rateLimits",
        "requireActionToken",
        "requiredTrustTier",
        "ruleOrder",
        "trustTiers",
    }
)
#: Two keys at least this much alike are one and a slip of the pen (difflib's ratio).
_SLIP: Final = 0.85

#: How numbers are written by whoever means a number, whole ones and others. YAML 1.1 has more:
#: `010` is octal, `1:30` is base 60, `1_0` is ten.
_WHOLE: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_DECIMAL: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)?\.[0-9]*(?:[eE][-+][0-9]+)?")
#: Operators that compare numbers only: `gte: 1.50` is no version.
_NUMERIC: Final = ("lt", "lte", "gt", "gte")

#: Read, checked and not acted on, and what that means.
_NO_EFFECT: Final = {"audit": "has no effect: every decision is recorded"}
#: Keys of rules that say something only beside these effects.
_ONLY_BESIDE: Final = {
    "approval": ("require_approval",),
    "rateLimits": ("allow", "require_approval"),
    "requireActionToken": ("allow", "require_approval"),
}
#: What Kubernetes keeps beside a name; no business of a policy.
_FOREIGN_METADATA: Final = ("annotations", "labels", "namespace")
#: What the wrapper itself has, besides a kind.
_WRAPPER: Final = ("apiVersion", "metadata", "spec")
#: What a document may call itself.
_KINDS: Final = ("Policy", *CHAIN_KINDS)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something about a policy file that its author should know."""

    file: str
    line: int
    column: int
    severity: Literal["error", "warning"]
    message: str
    #: The lint that found it (docs/policies.md); empty for what is wrong in itself.
    lint: str = ""

    def __str__(self) -> str:
        tail = f" [{self.lint}]" if self.lint else ""
        place = f"{visible(self.file)}:{self.line}:{self.column}"
        return f"{place}: {self.severity}: {self.message}{tail}"


class Placed(NamedTuple):
    """A policy and where its file says it: 1-based line and column."""

    policy: CompiledPolicy
    line: int
    column: int
    #: Of its `defaultEffect`, or of the policy where there is none.
    default_place: tuple[int, int]
    #: Of each rule, in the order of the document.
    rule_lines: tuple[int, ...]


class PlacedChain(NamedTuple):
    """A document of another kind and where its file says it: 1-based line and column."""

    document: CompiledChain
    line: int
    column: int


class Parsed(NamedTuple):
    """What one file holds: its documents, or none and at least one error."""

    policies: tuple[Placed, ...]
    problems: tuple[Problem, ...]
    #: The documents that are no policies.
    chain: tuple[PlacedChain, ...] = ()

    @property
    def has_documents(self) -> bool:
        """Something of it can be in force."""
        return bool(self.policies or self.chain)

    @property
    def is_bad(self) -> bool:
        """Nothing of the file counts."""
        return any(problem.severity == "error" for problem in self.problems)


def parse_file(data: bytes, file: str) -> Parsed:
    """Read one policy file. `file` is the name that problems carry."""
    if len(data) > MAX_FILE:
        return refused(file, f"the file is larger than {MAX_FILE} bytes")
    try:
        nodes = yaml_tree.parse(data)
    except YamlError as error:
        return refused(file, error.message, error.line, error.column)
    if not nodes:
        return refused(file, "the file is empty; a policy needs a name")
    policies: list[Placed] = []
    chain: list[PlacedChain] = []
    problems: set[Problem] = set()
    unknown: set[str] = set()
    for node in nodes:
        reader = _Reader(node, file, unknown)
        document = reader.read()
        if isinstance(document, PolicyDoc):
            policies.append(reader.placed(document))
        elif document is not None:
            chain.append(reader.placed_chain(document))
        problems.update(reader.problems)
    if any(problem.severity == "error" for problem in problems):
        return Parsed((), _told(problems))
    return Parsed(tuple(policies), _told(problems), tuple(chain))


def refused(file: str, message: str, line: int = 1, column: int = 1) -> Parsed:
    """The result for a file of which nothing counts for one reason."""
    return Parsed((), (Problem(file, line, column, "error", message),))


def _told(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """The problems in the order of the file, errors first where there are too many."""
    found = sorted(problems)
    if len(found) <= MAX_PROBLEMS:
        return tuple(found)
    chosen = sorted(found, key=lambda problem: (problem.severity, problem))[:MAX_PROBLEMS]
    last = max(chosen)
    more = f"and {len(found) - MAX_PROBLEMS} more problems in this file"
    return (*sorted(chosen), Problem(last.file, last.line, last.column, "warning", more))


class _Reader:
    """Reads one document and collects everything there is to say about it."""

    def __init__(self, node: Node, file: str, unknown: set[str]) -> None:
        """`unknown`: the different unknown keys of the whole file so far."""
        self._node = node
        self._file = file
        self._unknown = unknown
        #: Of the document's kind.
        self._model: type[PolicyDoc | ChainDoc] = PolicyDoc
        self.problems: list[Problem] = []

    def read(self) -> PolicyDoc | ChainDoc | None:
        if not isinstance(self._node.value, dict):
            self._say((), "error", "a policy is a mapping that starts with `name:`")
            return None
        if "tests" in self._node.value and "rules" not in self._node.value:
            said = "this is a suite of tests, not a policy; run it with `authz policy test --file`"
            self._say((), "error", said)
            return None
        is_known = self._know_kind(self._node.value)
        if not self._unwrap() or not is_known:
            return None
        data: Any = self._node.plain()
        self._raw_version(data)
        if self._model is PolicyDoc:
            self._readable_default(data)
            for index, rule in enumerate(_items(self._node.at(("rules",)))):
                conditions = rule.value.get("conditions") if isinstance(rule.value, dict) else None
                if conditions is not None:
                    self._ambiguous(conditions, ("rules", index, "conditions"))
        document = None
        while document is None:
            try:
                document = self._model.model_validate(data)
            except ValidationError as error:
                if not self._explain(error, data):
                    break
        self._empty(data, (), {(problem.line, problem.column) for problem in self.problems})
        if isinstance(document, PolicyDoc):
            self._warn(document)
        elif document is not None:
            self._check(document)
        return document

    def _know_kind(self, document: dict[str, Node]) -> bool:
        """Find the model of the document's kind; false, and told, where there is none."""
        node = document.get("kind")
        if node is None:
            return True
        is_wrapped = "apiVersion" in document
        if isinstance(node.value, str) and node.value in CHAIN_KINDS:
            self._model = CHAIN_KINDS[node.value]
        elif node.text != "Policy" and not (is_wrapped and node.text.lower().endswith("policy")):
            known = f"one of {', '.join(_KINDS)}"
            if is_wrapped:
                known += ", or something that ends in Policy"
            said = f"unknown kind `{word(node.text)}`{_nearest(node.text, _KINDS)} ({known})"
            if not node.text:
                said = f"`kind` is {known}"
            self._say(("kind",), "error", said)
            return False
        return True

    def placed(self, document: PolicyDoc) -> Placed:
        line, column = self._node.place_of_key(("name",))
        default = line, column
        if "default_effect" in document.model_fields_set:
            default = self._node.place(self._written(("defaultEffect",)))
        rules = tuple(self._node.place(("rules", n))[0] for n in range(len(document.rules)))
        return Placed(compile_policy(document), line, column, default, rules)

    def placed_chain(self, document: ChainDoc) -> PlacedChain:
        return PlacedChain(compile_chain(document), *self._node.place_of_key(("name",)))

    def _unwrap(self) -> bool:
        """Take the AGT wrapper off: `metadata` and `spec` become one mapping, places kept."""
        node = self._node
        assert isinstance(node.value, dict)
        assert node.keys is not None
        if "apiVersion" not in node.value:
            return True
        version = node.value["apiVersion"].text
        if version != WRAPPER_VERSION:
            self._say(
                ("apiVersion",),
                "warning",
                f"apiVersion `{word(version)}` is not {WRAPPER_VERSION}; read as if it were",
            )
        values: dict[str, Node] = {}
        keys: dict[str, tuple[int, int]] = {}
        complete = True
        for part in ("metadata", "spec"):
            inner = node.value.get(part)
            if inner is None or not isinstance(inner.value, dict):
                self._say((part,), "error", f"with apiVersion, `{part}` is a mapping")
                complete = False
                continue
            assert inner.keys is not None
            for written, value in inner.value.items():
                if part == "metadata" and written not in METADATA:
                    complete &= self._in_metadata(written)
                    continue
                key = self._unwrapped_key(part, written)
                if key in values:
                    self._say(
                        (part, written), "error", f"`{word(written)}` is given twice", of_key=True
                    )
                    complete = False
                values[key], keys[key] = value, inner.keys[written]
        for key in node.value:
            # A policy's kind stays outside: it need only end in Policy there.
            if key in _WRAPPER or (key == "kind" and self._model is PolicyDoc):
                continue
            if key in values:
                self._say((key,), "error", f"`{word(key)}` is given twice", of_key=True)
                complete = False
            values[key], keys[key] = node.value[key], node.keys[key]
        self._node = Node(values, node.line, node.column, keys=keys)
        return complete

    def _unwrapped_key(self, part: str, written: str) -> str:
        has_scope = "applies_to" in self._model.model_fields
        return "appliesTo" if (part, written) == ("spec", "bindings") and has_scope else written

    def _in_metadata(self, written: str) -> bool:
        """Tell of a key that is not the document's; false where that is an error."""
        if written in _FOREIGN_METADATA:
            return True
        path, shown = ("metadata", written), word(written)
        is_policy = self._model is PolicyDoc
        if written in _spellings(self._model) or (is_policy and _deciding(written)):
            self._say(path, "error", f"`{shown}` does not belong in metadata", of_key=True)
            return False
        if not is_policy:
            self._say(path, "error", f"unknown key `{shown}` in metadata", of_key=True)
            return False
        self._say(path, "warning", f"unknown key `{shown}` in metadata; ignored", of_key=True)
        return True

    def _raw_version(self, data: dict[str, Any]) -> None:
        # `version: 1.10` is the number 1.1 to YAML; its author meant the characters.
        version = data.get("version")
        if isinstance(version, (bool, int, float)):
            written = self._node.text_at(("version",))
            data["version"] = written
            kind = "a boolean" if isinstance(version, bool) else "a number"
            self._say(
                ("version",), "warning", f'version {written} is {kind} to YAML; write "{written}"'
            )

    def _readable_default(self, data: dict[str, Any]) -> None:
        # CONTRACT §5: a bad defaultEffect is a warning, and deny is what stays.
        for key in ("defaultEffect", "default_effect"):
            if key in data and lower(data[key]) not in ("allow", "deny"):
                written = word(self._node.text_at((key,)))
                self._say((key,), "warning", f"unknown {key} `{written}`; `deny` is used")
                data[key] = "deny"

    def _ambiguous(self, node: Node, path: Path) -> None:
        """Tell of values that are not what they look like (YAML 1.1 §10.3.2)."""
        if isinstance(node.value, dict):
            for key, inner in node.value.items():
                self._ambiguous(inner, (*path, key))
        for index, inner in enumerate(_items(node)):
            self._ambiguous(inner, (*path, index))
        value, written = node.value, word(node.text)
        if isinstance(value, bool):
            if node.text.lower() not in ("true", "false"):
                read = str(value).lower()
                said = f'YAML reads `{written}` as {read}; write "{written}", or {read}'
                self._say(path, "error", said)
        elif isinstance(value, (int, float)) and math.isfinite(value):  # else it is refused anyway
            is_misread = self._misread(node, path, f'"{written}", or ')
            is_meant = isinstance(value, int) or node.text == repr(value)
            if not is_misread and not is_meant and not set(path).intersection(_NUMERIC):
                said = f'`{written}` is the number {value}; if a text is meant, write "{written}"'
                self._say(path, "warning", said)

    def _misread(self, node: Node, path: Path, otherwise: str) -> bool:
        """Tell of a number that is not the one it looks like, and what to write instead."""
        plain = _WHOLE if isinstance(node.value, int) else _DECIMAL
        if plain.fullmatch(node.text):
            return False
        read = f"YAML reads `{word(node.text)}` as {node.value}"
        self._say(path, "error", f"{read}; write {otherwise}{node.value}")
        return True

    def _misread_numbers(self, node: Node, path: Path) -> None:
        """The same of all numbers where only numbers can stand."""
        if isinstance(node.value, dict):
            for key, inner in node.value.items():
                if (*path, key) != ("version",):
                    self._misread_numbers(inner, (*path, key))
        for index, inner in enumerate(_items(node)):
            self._misread_numbers(inner, (*path, index))
        if isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
            self._misread(node, path, "")

    def _explain(self, error: ValidationError, data: Any) -> bool:
        """Turn pydantic's errors into problems; true when what is left is worth another try."""
        retry = True
        for item in error.errors(include_url=False, include_input=False):
            path: Path = item["loc"]
            if item["type"] == "extra_forbidden":
                retry &= self._unknown_key(path, data)
                continue
            retry = False
            if item["type"] == "conditions":
                for inner, sentence in item["ctx"]["problems"]:
                    unknown = sentence.startswith("unknown")
                    self._say((*path, *inner), "error", sentence, of_key=unknown)
                continue
            path = (*path, *item.get("ctx", {}).get("path", ()))
            of_key = item["type"].endswith("_key")
            self._say(path, "error", _sentence(path, item, self._node), of_key=of_key)
        return retry

    def _empty(self, value: object, path: Path, told: set[tuple[int, int]]) -> None:
        """A key without a value says nothing, and its author will have meant something."""
        if isinstance(value, list):
            for index, item in enumerate(value):
                self._empty(item, (*path, index), told)
        elif isinstance(value, dict):
            for key, item in value.items():
                if key != "conditions" or item is None:  # whose inside is looked at elsewhere
                    self._empty(item, (*path, key), told)
        elif value is None and path and self._node.place(path) not in told:
            key = next(step for step in reversed(path) if isinstance(step, str))
            said = f"nothing is written for `{word(key)}`; leave it out or say it"
            self._say(path, "error", said, of_key=True)

    def _unknown_key(self, path: Path, data: Any) -> bool:
        key, shown = str(path[-1]), word(str(path[-1]))
        self._unknown.add(key)
        if len(self._unknown) > MAX_UNKNOWN:
            said = f"over {MAX_UNKNOWN} different unknown keys; this is no policy file"
            self._say((), "error", said)
            return False
        model = _model_at(self._model, path[:-1])
        meant, known = _meant(model, key), _deciding(key)
        if issubclass(model, ChainModel):
            holder = next((step for step in path[-2::-1] if isinstance(step, str)), "")
            where = word(holder) if holder else self._node.text_at(("kind",))
            hint = f", did you mean `{meant}`?" if meant else ""
            self._say(path, "error", f"unknown key `{shown}` in {where}{hint}", of_key=True)
            return False
        if key in _spellings(model):
            said = f"`{shown}` is given a second time in another spelling"
            self._say(path, "error", said, of_key=True)
            return False
        hint = f", did you mean `{meant}`?" if meant else ""
        here = f" in {path[-2]}" if model in RESTRICTS else ""
        if known and _plain(known) == _plain(meant):
            said = f"unknown key `{shown}`{here}{hint}"
        elif known in _NOT_EVALUATED:
            said = (
                f"`{shown}` is not evaluated, and the policy would mean something else without it"
            )
        elif known:
            said = f"`{shown}` does not belong here, and nothing would come of it"
        elif here:
            said = f"unknown key `{shown}`{here}{hint}"
        else:
            holder = data
            for step in path[:-1]:
                holder = holder[step]
            del holder[key]
            self._say(path, "warning", f"unknown key `{shown}`{hint}; ignored", of_key=True)
            return True
        self._say(path, "error", said, of_key=True)
        return False

    def _check(self, document: ChainDoc) -> None:
        """Tell of what is valid in itself and would take nothing away."""
        self._misread_numbers(self._node, ())
        for key in ("floors", "requirements", "costs"):
            entries = getattr(document, key, ())
            for lint, path, sentence in lints.of_entries(key, [e.actions for e in entries]):
                self._say(path, "warning", sentence, lint)
        if isinstance(document, RouteMapDoc):
            self._check_methods(document)
        scope = getattr(document, "applies_to", None)
        if scope is not None:
            self._unknown_tiers(scope, "error")
            if scope.is_nobody:
                said = "appliesTo names nobody; leave it out where every agent is meant"
                self._say(("appliesTo",), "error", said)

    def _check_methods(self, document: RouteMapDoc) -> None:
        """Tell of methods that no request will have, of each once."""
        told: set[str] = set()
        for index in range(len(document.routes)):
            path: Path = ("routes", index, "method")
            node = self._node.at(path)
            for position, written in enumerate(_items(node) or [node]):
                method = written.text.upper()
                if method in METHODS or method in told:
                    continue
                if len(told) == MAX_PROBLEMS:
                    return
                told.add(method)
                said = f"`{word(written.text)}` is no registered HTTP method"
                self._say((*path, position), "warning", said + _nearest(method, _SORTED_METHODS))

    def _unknown_tiers(self, scope: AppliesTo, severity: Literal["error", "warning"]) -> None:
        for index, tier in enumerate(scope.trust_tiers or ()):
            if tier != "*" and tiers.rank(tier) is None:
                path = ("appliesTo", "trustTiers", index)
                self._say(path, severity, _unknown_tier(tier))

    def _warn(self, document: PolicyDoc) -> None:
        given = document.model_fields_set
        if "version" not in given:
            self._say((), "warning", "the policy has no version")
        if "default_effect" not in given:
            self._say((), "warning", "no defaultEffect; `deny` is used")
        self._unknown_tiers(document.applies_to, "warning")
        if document.enforcement == "dry_run":
            self._say(
                ("enforcement",),
                "warning",
                "the policy is a dry run: agents that have no other policy are not blocked",
            )
        self._say_no_effect((), document)
        for index, rule in enumerate(document.rules):
            self._say_no_effect(("rules", index), rule)
            self._say_only_beside(("rules", index), rule)
        for lint, path, sentence in lints.of_policy(document):
            self._say(path, "warning", sentence, lint)

    def _say_no_effect(self, path: Path, model: PolicyDoc | Rule) -> None:
        for name in model.model_fields_set:
            main = to_camel(name)
            value = getattr(model, name)
            if main in _NO_EFFECT and value is not None:
                place: Path = (*path, main)
                if isinstance(value, RuleAudit) and value.notify:
                    # That somebody is to be told has one (`compiled`); how much is recorded not.
                    if not value.level:
                        continue
                    place = (*place, "level")
                written = self._written(place)
                said = f"`{written[-1]}` {_NO_EFFECT[main]}"
                self._say(written, "warning", said, of_key=True)

    def _say_only_beside(self, path: Path, rule: Rule) -> None:
        for name in rule.model_fields_set:
            effects = _ONLY_BESIDE.get(to_camel(name))
            if effects and rule.effect not in effects and getattr(rule, name):
                written = self._written((*path, to_camel(name)))
                said = f"`{written[-1]}` has no effect: what the rule does is {rule.effect}"
                self._say(written, "warning", said, of_key=True)

    def _written(self, path: Path) -> Path:
        """A path with each key in the spelling that the document has."""
        found: Path = ()
        for step in path:
            here = self._node.at(found).plain_keys()
            spelled = step
            if isinstance(step, str) and step not in here:
                model = _model_at(self._model, found)
                names = [spellings_of(model, name) for name in model.model_fields]
                others = next((keys for keys in names if step in keys), [])
                spelled = next((key for key in others if key in here), step)
            found = (*found, spelled)
        return found

    def _say(
        self,
        path: Path,
        severity: Literal["error", "warning"],
        message: str,
        lint: str = "",
        *,
        of_key: bool = False,
    ) -> None:
        path = self._written(path)
        line, column = self._node.place_of_key(path) if of_key else self._node.place(path)
        self.problems.append(Problem(self._file, line, column, severity, message, lint))


#: In one order, so that of two that are as near always the same one is named.
_SORTED_METHODS: Final = sorted(METHODS)


def _items(node: Node) -> list[Node]:
    """The items of a list; of anything else none."""
    return node.value if isinstance(node.value, list) else []


def _model_at(root: type[BaseModel], path: Path) -> type[BaseModel]:
    """The model that a mapping at this place of a document is read as."""
    model = root
    for step in path:
        if isinstance(step, int):
            continue
        field = next(
            field for name, field in model.model_fields.items() if step in spellings_of(model, name)
        )
        inner = [a for a in _arguments(field.annotation) if _is_model(a)]
        if not inner:
            return model
        model = inner[0]
    return model


def _arguments(annotation: Any) -> list[Any]:
    """Every type that an annotation is made of."""
    found = [annotation]
    for argument in getattr(annotation, "__args__", ()):
        found += _arguments(argument)
    return found


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _spellings(model: type[BaseModel]) -> set[str]:
    return {key for name in model.model_fields for key in spellings_of(model, name)}


def _plain(key: str) -> str:
    """A key without what spellings differ in."""
    return key[:MAX_NAME].replace("-", "").replace("_", "").lower()


#: What must not be lost, by its plain spelling.
_DECIDING: Final = {_plain(key): key for key in sorted(_NOT_EVALUATED | _TAKES_AWAY)}


@functools.lru_cache(maxsize=1024)
def _deciding(written: str) -> str:
    """The key of `_DECIDING` that this is a spelling or a slip of; empty where there is none."""
    if written in _FOREIGN_METADATA:
        return ""
    slip = difflib.get_close_matches(_plain(written), _DECIDING, n=1, cutoff=_SLIP)
    return _DECIDING[slip[0]] if slip else ""


@functools.lru_cache(maxsize=1024)
def _meant(model: type[BaseModel], written: str) -> str:
    """The key of a model that comes nearest, as documents write it; empty where none is near."""
    keys: dict[str, str] = {}
    for name in model.model_fields:
        spellings = spellings_of(model, name)
        keys.update(dict.fromkeys(map(_plain, spellings), spellings[0]))
    close = difflib.get_close_matches(_plain(written), keys, n=1)
    return keys[close[0]] if close else ""


#: Sentences by error type; the braces are filled in from pydantic's context.
_SENTENCES: Final = {
    "missing": "`{leaf}` is missing",
    "list_type": "`{leaf}` must be a list",
    "int_type": "`{leaf}` must be a whole number",
    "bool_type": "`{leaf}` must be true or false",
    **dict.fromkeys(("float_type", "finite_number"), "`{leaf}` must be a number"),
    **dict.fromkeys(("model_type", "model_attributes_type"), "`{leaf}` must be a mapping"),
    "dict_type": "`{leaf}` must be a mapping",
    "greater_than_equal": "`{leaf}` must be at least {ge}",
    "less_than_equal": "`{leaf}` must be at most {le}",
    **dict.fromkeys(("too_short", "string_too_short"), "`{leaf}` must not be empty"),
    **dict.fromkeys(("too_long", "string_too_long"), "`{leaf}` is longer than {max_length}"),
}


def _sentence(path: Path, item: Any, node: Node) -> str:
    """Pydantic's finding in a policy author's words (error types of pydantic-core)."""
    named = [str(step) for step in path if not isinstance(step, int)]
    leaf = named[-1] if named else "document"
    written = node.text_at(path)
    context = item.get("ctx", {})
    match item["type"]:
        case "literal_error":
            expected = context["expected"]
            words = [part.strip("'") for part in expected.replace(" or ", ", ").split(", ")]
            return f"unknown {leaf} `{word(written)}`{_nearest(written, words)} (one of {expected})"
        case "string_type":
            return _not_text(leaf, node.at(path))
        case "tier":
            return _unknown_tier(written)
        case "tier_key":
            return _unknown_tier(leaf)
        case "lane":
            return _unknown_lane(written)
        case "lane_key":
            return _unknown_lane(leaf)
        case "at":
            return str(context.get("said", item["msg"]))
        case "model_type" | "model_attributes_type" | "dict_type" if isinstance(path[-1], int):
            return f"item {path[-1] + 1} of `{leaf}` must be a mapping"
        case kind if kind in _SENTENCES:
            # pydantic makes a float of the bound of a float: 1000.0 is 1000.
            bounds = {name: int(v) if isinstance(v, float) else v for name, v in context.items()}
            return _SENTENCES[kind].format(leaf=leaf, **bounds)
    return f"`{leaf}`: {item['msg']}"


def _unknown_tier(written: str) -> str:
    known = tiers.TIERS
    said = f"unknown trust tier `{word(written)}`{_nearest(written, known)}"
    return f"{said} (one of {', '.join(known)})"


def _unknown_lane(written: str) -> str:
    said = f"unknown lane `{word(written)}`{_nearest(written, LANES)}"
    return f"{said} (0 to 3, or one of {', '.join(LANES)})"


def _not_text(leaf: str, node: Node) -> str:
    """Why a value is not text although its author may think so (YAML 1.1 §10.3.2)."""
    said = f"`{leaf}` must be text"
    if isinstance(node.value, bool):
        read = f"{str(node.value).lower()}"
    elif isinstance(node.value, (int, float)):
        read = "a number"
    elif node.value is None:
        return f"{said}, and nothing is written there"
    else:
        return f"{said}, not a {'list' if isinstance(node.value, list) else 'mapping'}"
    return f'{said}: YAML reads `{word(node.text)}` as {read}; write "{word(node.text)}"'


def _nearest(written: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(written[:MAX_NAME], known, n=1)
    return f", did you mean `{close[0]}`?" if close else ""
