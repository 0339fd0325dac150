"""deploy/rendered is what kustomize and helm make of the sources, and Kubernetes would take it."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from tests.deploy import render
from tests.deploy.objects import manifests

#: From the first with native sidecars on by default to the newest that the package knows.
VERSIONS: Final = [f"1.{minor}" for minor in range(29, 38)]


def test_the_newest_version_is_among_those_checked() -> None:
    latest: str = kubernetes_validate.latest_version()
    assert VERSIONS[-1] == latest.removesuffix(".0")


@cache
def _fresh() -> dict[Path, str]:
    render.require("kubectl")
    render.require("helm")
    return render.files()


def test_what_is_checked_in_is_what_is_rendered() -> None:
    fresh = _fresh()
    assert set(render.RENDERED.iterdir()) == set(fresh), "run `make manifests`"
    for path, text in fresh.items():
        # As objects: helm 3 and 4 put their empty lines in different places.
        now, then = (list(yaml.safe_load_all(each)) for each in (text, path.read_text()))
        assert now == then, f"{path.name}: run `make manifests`"


@pytest.mark.parametrize("values", render.value_files(), ids=lambda path: path.name)
def test_helm_finds_nothing_wrong_with_the_chart(values: Path) -> None:
    render.require("helm")
    files = [flag for path in (render.EXAMPLE, values) for flag in ("--values", str(path))]
    said = render.helm("lint", "--strict", str(render.CHART), *files)
    assert "1 chart(s) linted, 0 chart(s) failed" in said


@pytest.fixture(scope="module", autouse=True)
def _schemas_are_read_once() -> Iterator[None]:
    """The package reads two megabytes of them for each object."""
    with pytest.MonkeyPatch.context() as patch:
        read = cache(kubernetes_validate.utils.schema_contents)
        patch.setattr(kubernetes_validate.utils, "schema_contents", read)
        yield


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_object(version: str) -> None:
    every = {json.dumps(found): found for each in manifests() for found in each.documents}
    assert len(every) > 30
    for document in every.values():
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "replicas"), "two"),
        (("spec", "template", "spec", "restartpolicy"), "Always"),
        (("spec", "template", "spec", "containers", 0, "securityContext", "runAsUser"), "agent"),
    ],
)
def test_the_schemas_do_refuse(path: tuple[str | int, ...], value: object) -> None:
    [document] = manifests()[0].of("StatefulSet", "Deployment")
    broken: Any = yaml.safe_load(yaml.safe_dump(document))
    at = broken
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)
