"""The component that synchronises: a CronJob that fetches, sidecars that send."""

from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from typer.testing import CliRunner

from authz import __version__
from authz.cli import app
from authz.settings import Settings, described
from tests.deploy import render
from tests.deploy.objects import Manifest, Object

#: As an overlay of somebody's would put it together.
_OVERLAY: Final = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - {kubernetes}/overlays/enforce
components:
  - {kubernetes}/components/sync
  - {kubernetes}/components/native-sidecar
"""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    render.require("kubectl")
    directory = tmp_path_factory.mktemp("overlay")
    # Outside a repository kustomize only takes relative paths.
    up = Path(*[".."] * (len(directory.parts) - 1))
    kubernetes = up / render.KUBERNETES.relative_to("/")
    (directory / "kustomization.yaml").write_text(_OVERLAY.format(kubernetes=kubernetes))
    text = render.kustomize(directory)
    return Manifest("sync", [one for one in yaml.safe_load_all(text) if one])


def _job(manifest: Manifest) -> Object:
    [found] = manifest.of("CronJob")
    spec: Object = found["spec"]
    return spec


def _pod(manifest: Manifest) -> Object:
    pod: Object = _job(manifest)["jobTemplate"]["spec"]["template"]["spec"]
    return pod


def test_it_is_the_seeds_every_five_minutes(manifest: Manifest) -> None:
    assert _job(manifest)["schedule"] == "*/5 * * * *"
    assert _job(manifest)["concurrencyPolicy"] == "Forbid"
    assert _pod(manifest)["restartPolicy"] == "OnFailure"


def test_its_pod_is_hardened_and_isolated(manifest: Manifest) -> None:
    pod = _pod(manifest)
    assert pod["automountServiceAccountToken"] is False
    [container] = pod["containers"]
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["runAsUser"] == 10001
    assert container["image"] == f"authz-sidecar:{__version__}"
    assert container["resources"]["limits"]
    labels = _job(manifest)["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    selectors = [p["spec"]["podSelector"]["matchLabels"] for p in manifest.of("NetworkPolicy")]
    assert labels in selectors
    # The sidecars' Service and policies are not the job's.
    assert not manifest.workload["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_its_command_and_settings_exist(manifest: Manifest) -> None:
    [container] = _pod(manifest)["containers"]
    assert CliRunner().invoke(app, [*container["args"], "--help"]).exit_code == 0
    known = {variable.name for variable in described()}
    assert {variable["name"] for variable in container["env"]} <= known


def test_the_job_writes_what_the_sidecars_only_read(manifest: Manifest) -> None:
    [claim] = manifest.of("PersistentVolumeClaim")
    name = claim["metadata"]["name"]
    [theirs] = [v for v in _pod(manifest)["volumes"] if v["name"] == "policies"]
    assert theirs["persistentVolumeClaim"]["claimName"] == name
    source = manifest.volume("policies")["persistentVolumeClaim"]
    assert source == {"claimName": name, "readOnly": True}
    [mount] = [m for m in manifest.containers["authz"]["volumeMounts"] if m["name"] == "policies"]
    assert mount["readOnly"] is True


def test_the_sidecars_send_and_do_not_fetch(manifest: Manifest) -> None:
    container = manifest.containers["authz"]
    given: dict[str, Any] = manifest.variables(container)
    secrets = {v["name"]: v["valueFrom"]["secretKeyRef"] for v in container["env"]}
    assert secrets["SYNC_TOKEN"] == {"name": "authz-sync", "key": "token"}
    [job] = _pod(manifest)["containers"]
    assert {v["name"]: v.get("value") for v in job["env"]}["SYNC_URL"] == given["SYNC_URL"]
    given = {name: said for name, said in given.items() if not name.endswith("_FILE")}
    settings = Settings.from_env(given | {name: name.ljust(32, "-") for name in secrets})
    assert settings.sync_url is not None
    assert (settings.sync_pull, settings.sync_push) == (False, True)
