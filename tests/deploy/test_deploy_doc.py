"""What docs/deploy.md says of Kubernetes and Helm: its tables are complete, its examples render."""

import re
import shutil
from pathlib import Path
from typing import Final

import yaml

from authz.core.policy_file import parse_file
from tests.deploy import render
from tests.deploy.objects import Manifest
from tests.deploy.test_rendered import VERSIONS

DOC: Final = (render.ROOT / "docs/deploy.md").read_text()
_KUBERNETES: Final = DOC.partition("\n## Kubernetes\n")[2].partition("\n## ")[0]
_HELM: Final = DOC.partition("\n## Helm\n")[2].partition("\n## ")[0]


def _table(text: str, heading: str) -> list[str]:
    """The first column of a table, its words in backquotes."""
    rows = text.partition(f"| {heading} | |\n|---|---|\n")[2].partition("\n\n")[0]
    return [
        word for row in rows.splitlines() for word in re.findall(r"`([^`]+)`", row.split("|")[1])
    ]


def _example(text: str, name: str) -> str:
    [found] = re.findall(rf"```yaml\n# {re.escape(name)}\n(.*?)```", text, re.DOTALL)
    return str(found)


def test_its_tables_have_every_overlay_and_component() -> None:
    assert sorted(_table(_KUBERNETES, "Overlay")) == render.overlays()
    components = [path.name for path in (render.KUBERNETES / "components").iterdir()]
    assert sorted(_table(_KUBERNETES, "Component")) == sorted(components)


def test_components_are_put_together_in_the_order_of_the_table() -> None:
    order = _table(_KUBERNETES, "Component")
    for name in render.overlays():
        at = name
        used: list[str] = []
        while at != "base":
            source = render.KUBERNETES / f"overlays/{at}/kustomization.yaml"
            said = yaml.safe_load(source.read_text())
            used = [Path(component).name for component in said.get("components", [])] + used
            at = Path(said["resources"][0]).name
        assert used == sorted(used, key=order.index), name


def test_its_values_exist() -> None:
    values = yaml.safe_load((render.CHART / "values.yaml").read_text())
    named = _table(_HELM, "Value")
    assert len(named) > 10
    for path in named:
        at = values
        for step in path.split("."):
            at = at[step]


def test_its_versions_are_those_that_are_tested() -> None:
    assert f"Kubernetes {VERSIONS[0]} to {VERSIONS[-1]}" in _HELM


def test_its_overlay_renders(tmp_path: Path) -> None:
    render.require("kubectl")
    shutil.copytree(render.KUBERNETES, tmp_path / "deploy/kubernetes")
    (tmp_path / "policies").mkdir()
    policy = "name: mine\nversion: '1'\nrules: []\ndefaultEffect: deny\n"
    (tmp_path / "policies/my-policy.yaml").write_text(policy)
    (tmp_path / "kustomization.yaml").write_text(_example(_KUBERNETES, "kustomization.yaml"))
    documents = yaml.safe_load_all(render.kustomize(tmp_path))
    made = Manifest("here", list(documents))
    assert made.workload["metadata"]["namespace"] == "agents"
    assert made.containers["agent"]["image"] == "registry.example.com/code-reviewer:7"
    assert made.front["image"].startswith("registry.example.com/authz-sidecar:")
    assert made.variables(made.containers["authz"])["PROXY_TARGET"] == "https://models.example.com"
    assert made.data("code-reviewer-policies") == {"my-policy.yaml": policy}
    assert made.data("code-reviewer-mode") == {"MODE": "enforce"}


def test_its_values_file_renders(tmp_path: Path) -> None:
    render.require("helm")
    (tmp_path / "values.yaml").write_text(_example(_HELM, "my-values.yaml"))
    documents = yaml.safe_load_all(render.template("--values", str(tmp_path / "values.yaml")))
    made = Manifest("here", [found for found in documents if found])
    assert made.front["image"].startswith("registry.example.com/authz-sidecar:")
    # None of the chart's own stays in force beside it: helm merges what is given by name.
    [(file, text)] = made.data("code-reviewer-policies").items()
    assert parse_file(text.encode(), file).problems == ()


def test_the_secrets_component_makes_the_secret(tmp_path: Path) -> None:
    render.require("kubectl")
    shutil.copytree(render.KUBERNETES, tmp_path / "kubernetes")
    secrets = tmp_path / "kubernetes/components/secrets"
    shutil.copy(secrets / "secrets.env.example", secrets / "secrets.env")
    (tmp_path / "kustomization.yaml").write_text(
        "resources: [kubernetes/overlays/enforce]\ncomponents: [kubernetes/components/secrets]\n"
    )
    made = Manifest("here", list(yaml.safe_load_all(render.kustomize(tmp_path))))
    [secret] = made.of("Secret")
    assert set(secret["data"]) == {"jwt-secret", "admin-token"}
    names = {v["valueFrom"]["secretKeyRef"]["name"] for v in made.containers["authz"]["env"]}
    assert names == {secret["metadata"]["name"]}
    assert re.fullmatch(r"authz-secrets-[a-z0-9]{10}", secret["metadata"]["name"])
