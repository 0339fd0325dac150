"""What the chart refuses, in one sentence and without the value; and what its notes say."""

import json
import subprocess
from pathlib import Path
from typing import Final

import pytest
import yaml

from authz.core.tiers import TIERS
from tests.deploy import render
from tests.deploy.objects import Manifest, Object

POLICY: Final = ("--set", "policies.a\\.yaml=name: a")
#: The least that the chart wants.
GIVEN: Final = ("--set", "secrets.existingSecret=authz-secrets", *POLICY)
STRONG: Final = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def _helm() -> None:
    render.require("helm")


def _rendered(*arguments: str) -> Manifest:
    documents = yaml.safe_load_all(render.template(*arguments))
    return Manifest("here", [found for found in documents if found])


def _refused(*arguments: str) -> str:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render.template(*arguments)
    said: str = caught.value.stderr
    return said


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ("sidecar.listen=loopback,sidecar.containers=two", "sidecar.listen: loopback needs"),
        (
            "sidecar.listen=loopback,networkPolicy.ingressFrom[0].podSelector.matchLabels.a=b",
            "networkPolicy.ingressFrom: nobody can reach",
        ),
        ("agent.runAsUser=10001", "agent.runAsUser: 10001 is the sidecar's"),
        ("agent.runAsGroup=10001", "agent.runAsGroup: 10001 is the sidecar's"),
        ("agent.env[0].name=API_BASE_URL,agent.env[0].value=x", "agent.env: API_BASE_URL is set"),
        ("agent.runAsUser=0", "at '/agent/runAsUser'"),
        (
            "agent.volumeMounts[0].name=run,agent.volumeMounts[0].mountPath=/r",
            "sidecar's volume run",
        ),
        ("extraVolumes[0].name=policies", "extraVolumes: the name policies is the sidecar's"),
        ("extraVolumes[0].name=x,extraVolumes[0].hostPath.path=/", "extraVolumes: x is a hostPath"),
        ("agent.envFrom[0].secretRef.name=authz-secrets", "may not have the sidecar's own Secret"),
        (
            "agent.env[0].name=X,agent.env[0].valueFrom.secretKeyRef.name=authz-secrets",
            "may not have the sidecar's own Secret",
        ),
        (
            "extraVolumes[0].name=x,extraVolumes[0].secret.secretName=authz-secrets",
            "may not have the sidecar's own Secret",
        ),
        ("agent.ports[0].containerPort=3100", "agent.ports: 3100 is a port of the sidecar"),
        ("terminationGracePeriodSeconds=12", "terminationGracePeriodSeconds: must be 8 more"),
        ("sidecar.settings.MODE=audit", "sidecar.settings.MODE: is set by mode"),
        ("sidecar.settings.JWT_SECRET=x", "sidecar.settings.JWT_SECRET: is set by"),
        ("sidecar.settings.HOST=::1", "sidecar.settings.HOST: has a value of its own"),
        ("sidecar.port=80", "at '/sidecar/port'"),
        ("mode=of", "at '/mode'"),
        ("modee=audit", "additional properties 'modee' not allowed"),
        ("upstream.target=api.openai.com", "at '/upstream/target'"),
        ("networkPolicy.egress[0].ports[0].port=443", "missing property 'to'"),
        ("networkPolicy.ingressFrom[0]=", "at '/networkPolicy/ingressFrom/0'"),
        ("secrets.jwtSecretKey=", "jwksConfigMap: needed where secrets.jwtSecretKey is empty"),
        ("podLabels.app\\.kubernetes\\.io/name=x", "podLabels.app.kubernetes.io/name: is what"),
        ("policies.x=name", "policies: x is no name of a policy file"),
        ("policies=null", "policies: there is none"),
        ("policyBundle.configMap=b", "policyBundle: a bundle and the keys that it must be signed"),
        (
            "policyBundle.configMap=b,policyBundle.keysConfigMap=k",
            "policyBundle: nothing else counts beside it",
        ),
    ],
)
def test_what_cannot_work_is_refused(values: str, sentence: str) -> None:
    said = _refused(*GIVEN, "--set", values)
    assert sentence in said


def test_the_least_is_enough() -> None:
    assert _rendered(*GIVEN).workload["kind"] == "StatefulSet"


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        ("code-reviewer", "code-reviewer"),
        ("Team_A/Reviewer (2)", "code-reviewer-team-a-reviewer-2"),
        ("///", "code-reviewer-agent"),
        ("x" * 200, "code-reviewer-" + "x" * 38),
    ],
)
def test_names_are_made_of_whatever_the_agents_id_is(agent: str, name: str) -> None:
    made = _rendered(*GIVEN, "--set-string", f"agent.id={agent}")
    assert {d["metadata"]["name"].removesuffix("-settings") for d in made.documents} <= {
        name,
        f"{name}-mode",
        f"{name}-policies",
    }
    assert made.variables(made.containers["authz"])["SIDECAR_AGENT_ID"] == agent


def test_secrets_have_to_be_given() -> None:
    assert "secrets.existingSecret: name a Secret with the keys" in _refused(*POLICY)
    said = _refused(*POLICY, "--set", f"secrets.jwtSecret={STRONG}")
    assert "secrets.adminToken: set it" in said
    assert STRONG not in said


@pytest.mark.parametrize("name", ["jwtSecret", "adminToken"])
@pytest.mark.parametrize("value", ["too-short-5f2", "with a blank in it " * 4])
def test_a_weak_secret_is_refused_and_not_repeated(name: str, value: str) -> None:
    given = {"jwtSecret": STRONG, "adminToken": STRONG[:32], name: value}
    flags = [part for key, text in given.items() for part in ("--set", f"secrets.{key}={text}")]
    said = _refused(*POLICY, *flags)
    assert f"secrets.{name}: must be" in said
    assert value not in said


def test_secrets_that_are_given_become_a_secret_and_nothing_else() -> None:
    token = STRONG[::-1]
    flags = ("--set", f"secrets.jwtSecret={STRONG}", "--set", f"secrets.adminToken={token}")
    made = _rendered(*POLICY, *flags)
    [secret] = made.of("Secret")
    assert secret["stringData"] == {"jwt-secret": STRONG, "admin-token": token}
    names = {
        variable["valueFrom"]["secretKeyRef"]["name"]
        for variable in made.containers["authz"]["env"]
    }
    assert names == {secret["metadata"]["name"]}
    for document in made.documents:
        if document is not secret:
            assert STRONG not in str(document)
            assert token not in str(document)


def test_only_what_is_read_at_the_start_starts_new_pods(tmp_path: Path) -> None:
    def pods(*values: str) -> Object:
        made: Object = _rendered(*GIVEN, *values).workload["spec"]["template"]
        return made

    before = pods()
    assert pods("--set", "mode=audit") == before
    (tmp_path / "values.yaml").write_text("policies: {x.yaml: 'name: x'}")
    assert pods("--values", str(tmp_path / "values.yaml")) == before
    assert pods("--set", "sidecar.settings.LOG_LEVEL=debug") != before
    assert pods("--set", "upstream.target=https://other.example") != before
    strong = ("--set", f"secrets.existingSecret=,secrets.jwtSecret={STRONG}")
    first = pods(*strong, "--set", "secrets.adminToken=0123456789abcdef")
    assert first != pods(*strong, "--set", "secrets.adminToken=fedcba9876543210")


def _notes(*values: str) -> str:
    command = ("install", "code-reviewer", str(render.CHART), "--dry-run=client", *GIVEN, *values)
    said = render.helm(*command)
    return said.partition("NOTES:")[2]


def test_notes_warn_of_what_is_open() -> None:
    quiet = _notes("--set", "capture.enabled=true", "--set", "agent.tokenSecret.name=token")
    assert "rollout status statefulset/code-reviewer" in quiet
    assert "WARNING" not in quiet
    assert "token mint" not in quiet
    assert "go round" not in quiet
    loud = _notes(
        "--set", "mode=bypass",
        "--set", "networkPolicy.enabled=false",
        "--set", "audit.persistence.enabled=false",
    )  # fmt: skip
    assert loud.count("WARNING") == 3
    assert "authz token mint --agent code-reviewer" in loud
    assert "go round the sidecar" in loud


def test_the_tiers_of_the_schema_are_the_services() -> None:
    schema = json.loads((render.CHART / "values.schema.json").read_text())
    assert schema["properties"]["agent"]["properties"]["tier"]["enum"] == ["", *TIERS]
