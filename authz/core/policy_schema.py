"""The policy language as a JSON Schema (2020-12), so that editors check and complete policies.

Made from the models of `policy_doc` and `chain_doc`; which one it is, a document's kind tells.
Conditions, which have a reader of their own, are described here. A schema cannot say everything:
`authz policy validate` does.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from authz.core.alert_doc import AlertMatch
from authz.core.chain_doc import (
    CHAIN_KINDS,
    Cost,
    Floor,
    Refill,
    Requirement,
    Route,
)
from authz.core.chain_model import ChainDoc
from authz.core.facts import CONTEXT, FACTS
from authz.core.operators import OPERATORS, SNAKE
from authz.core.policy_doc import (
    METADATA,
    WRAPPER_VERSION,
    AppliesTo,
    Approval,
    Delegation,
    HumanInTheLoop,
    PolicyAudit,
    PolicyDoc,
    RateLimits,
    Rule,
    RuleAudit,
    spellings_of,
)

_PARTS: Final = (
    AlertMatch,
    AppliesTo,
    Approval,
    Cost,
    Delegation,
    Floor,
    HumanInTheLoop,
    PolicyAudit,
    RateLimits,
    Refill,
    Requirement,
    Route,
    Rule,
    RuleAudit,
)


def json_schema() -> dict[str, Any]:
    """A JSON Schema (2020-12) of one document of any kind, the AGT wrapper included."""
    definitions: dict[str, Any] = {}
    policy = _schema_of(PolicyDoc, definitions)
    definitions["Rule"]["properties"]["conditions"] = {"$ref": "#/$defs/Conditions"}
    definitions["Conditions"] = conditions_schema()
    definitions["Policy"] = policy
    definitions["WrappedPolicy"] = _wrapped(policy, {"type": "string"})
    for kind, model in CHAIN_KINDS.items():
        definitions[kind] = _schema_of(model, definitions)
        definitions[f"Wrapped{kind}"] = _wrapped(definitions[kind], {"const": kind})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "authz policy",
        "if": {"required": ["kind"], "properties": {"kind": {"enum": list(CHAIN_KINDS)}}},
        "then": {
            "allOf": [
                {"if": {"properties": {"kind": {"const": kind}}}, "then": _plain_or_wrapped(kind)}
                for kind in CHAIN_KINDS
            ]
        },
        "else": _plain_or_wrapped("Policy"),
        "$defs": definitions,
    }


def _schema_of(model: type[PolicyDoc | ChainDoc], definitions: dict[str, Any]) -> dict[str, Any]:
    """A model's own schema; those of its parts are added to the definitions."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    models: dict[str, type[BaseModel]] = {part.__name__: part for part in _PARTS}
    for name, definition in schema.pop("$defs", {}).items():
        _all_spellings(definition, models[name])
        definitions.setdefault(name, definition)
    _all_spellings(schema, model)
    return schema


def _wrapped(schema: Mapping[str, Any], kind: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a document in the AGT wrapper. `kind`: the schema of the wrapper's own."""
    properties: Mapping[str, Any] = schema["properties"]
    spec = {name: value for name, value in properties.items() if name not in ("name", "kind")}
    required = [name for name in schema["required"] if name not in ("name", "kind")]
    asked = {name: schema[name] for name in ("oneOf",) if name in schema}
    if "appliesTo" in spec:
        spec["bindings"] = spec["appliesTo"]
    return {
        "type": "object",
        "required": ["apiVersion", "metadata", "spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"`{WRAPPER_VERSION}`"},
            "kind": kind,
            "metadata": {
                "type": "object",
                "required": ["name"],
                "properties": {name: properties[name] for name in METADATA},
            },
            "spec": {
                "type": "object",
                "required": required,
                "properties": spec,
                "additionalProperties": False,
                **asked,
            },
        },
    }


def _plain_or_wrapped(kind: str) -> dict[str, Any]:
    return {
        "if": {"required": ["apiVersion"]},
        "then": {"$ref": f"#/$defs/Wrapped{kind}"},
        "else": {"$ref": f"#/$defs/{kind}"},
    }


def _all_spellings(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Put every spelling of a key into a schema that has only the first, and take nulls out.

    A key without a value is an error of its own (`policy_file`).
    """
    properties: dict[str, Any] = schema["properties"]
    required: list[str] = schema.get("required", [])
    for name in model.model_fields:
        spellings = spellings_of(model, name)
        for other in spellings[1:]:
            properties[other] = properties[spellings[0]]
        if len(spellings) > 1 and spellings[0] in required:
            required.remove(spellings[0])
            schema["anyOf"] = [{"required": [spelling]} for spelling in spellings]
    for key, value in properties.items():
        shown = {key: part for key, part in value.items() if key != "default"}
        if "anyOf" in shown:
            shown["anyOf"] = [choice for choice in shown["anyOf"] if choice != {"type": "null"}]
        properties[key] = shown


def conditions_schema() -> dict[str, Any]:
    """A JSON Schema of conditions; `$ref` to itself as `#/$defs/Conditions`."""
    scalar: dict[str, Any] = {"type": ["string", "number", "boolean"]}
    several = {"type": "array", "minItems": 1, "items": scalar}
    texts: dict[str, Any] = {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
        ]
    }
    shapes: dict[str, dict[str, Any]] = {
        "scalar": scalar,
        "scalars": several,
        "scalar or scalars": {"anyOf": [scalar, several]},
        "texts": texts,
        "number": {"type": "number"},
        "bool": {"type": "boolean"},
    }
    names = {**{name: name for name in OPERATORS}, **SNAKE}
    tests = {
        "type": "object",
        "minProperties": 1,
        "properties": {name: shapes[OPERATORS[known].takes] for name, known in names.items()},
    }
    test = {"anyOf": [scalar, several, {**tests, "additionalProperties": False}]}
    itself = {"$ref": "#/$defs/Conditions"}
    groups = {"type": "array", "minItems": 1, "items": itself}
    return {
        "description": "All must hold. Unknown in an allow rule: no match; in a deny rule: match",
        "type": "object",
        "minProperties": 1,
        "properties": {
            **dict.fromkeys(FACTS, test),
            "agent.trustTier": {
                "anyOf": [{"type": "string"}, {"type": "array"}, {"type": "object"}]
            },
            CONTEXT: {"type": "object", "minProperties": 1, "additionalProperties": test},
            "all": groups,
            "any": groups,
            "not": itself,
        },
        "patternProperties": {r"^context\..+": test},
        "additionalProperties": False,
    }
