"""What docs/observability.md says of metrics, alerts and the log is so."""

import json
import logging
import re
from typing import Final

import yaml
from pydantic import AliasChoices

from authz.core.mode import Mode
from authz.edges.metrics.catalogue import FAMILIES, Kind
from authz.edges.metrics.counts import MAX_ACTION, MAX_ACTIONS
from authz.edges.metrics.sources import MAX_SERIES
from authz.logs import ENVOY_LEVELS, envoy_log_format
from authz.settings import Settings, described
from tests.generated import OBSERVABILITY

TEXT: Final = OBSERVABILITY.read_text()
YAML: Final = [yaml.safe_load(one) for one in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]
#: Words of PromQL, and our own labels.
_SERIES: Final = re.compile(r"\bmeshguard_[a-z_]+")


def series() -> set[str]:
    """Every name that a rule may ask for."""
    names = set()
    for family in FAMILIES.values():
        ends = ("_bucket", "_sum", "_count") if family.kind is Kind.HISTOGRAM else ("",)
        names |= {family.name + end for end in ends}
    return names


def test_every_rule_asks_for_what_there_is() -> None:
    rules = YAML[2]["groups"][0]["rules"]
    assert len(rules) >= 8
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        asked = set(_SERIES.findall(rule["expr"]))
        assert asked
        assert asked <= series(), rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_every_label_that_a_rule_selects_or_drops_is_one() -> None:
    rules = YAML[2]["groups"][0]["rules"]
    labels = {label for family in FAMILIES.values() for label in family.labels}
    for rule in rules:
        selected = re.findall(r'([a-z_]+)="', rule["expr"])
        dropped = [one for said in re.findall(r"without \((.*?)\)", rule["expr"])
                   for one in said.split(", ")]  # fmt: skip
        assert {*selected, *dropped} <= labels, rule["alert"]
    assert f'{{mode="{Mode.BYPASS}"}}' in rules[0]["expr"]


def test_the_scrape_configuration_is_the_annotations() -> None:
    labels = [
        label
        for relabel in YAML[0]["scrape_configs"][0]["relabel_configs"]
        for label in relabel["source_labels"]
    ]
    for name in YAML[1]["metadata"]["annotations"]:
        meta = "__meta_kubernetes_pod_annotation_" + re.sub(r"[./]", "_", name)
        assert meta in labels


def test_its_numbers_are_those_of_the_code() -> None:
    assert f"{MAX_ACTIONS} actions have a series" in TEXT
    assert f"longer than {MAX_ACTION} characters" in TEXT
    assert f"Up to {MAX_SERIES:,} balances" in TEXT


def test_the_members_of_a_line_are_those_that_are_written() -> None:
    made = envoy_log_format("json")
    members = set(json.loads(re.sub(r"%[^\"]*", "x", made)))
    table = TEXT.partition("| Member | |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`([a-z_]+)`", table)) - {"run", "authz", "envoy"}
    assert named == members | {"exception", "trace_id"}
    for level, envoys in ENVOY_LEVELS.items():
        assert getattr(logging, level.upper())
        assert envoys != "debug"


def test_every_variable_it_names_exists() -> None:
    named = set(re.findall(r"`([A-Z]+_[A-Z_]+)(?:=[a-z]+)?`", TEXT))
    assert {"METRICS_ENABLED", "LOG_FORMAT", "LOG_LEVEL", "ACCESS_LOG"} <= named
    aliases = [field.validation_alias for field in Settings.model_fields.values()]
    others = {one for alias in aliases if isinstance(alias, AliasChoices) for one in alias.choices}
    assert named <= {variable.name for variable in described()} | others
