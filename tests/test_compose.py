"""What the compose files and the Dockerfile promise, read from them; tests/containers runs them."""

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from authz import __version__
from authz.settings import described

ROOT: Final = Path(__file__).parents[1]
FILES: Final = ("compose.yaml", "compose.multi-agent.yaml")
DOCKERFILE: Final = (ROOT / "deploy" / "Dockerfile").read_text()
#: What compose 1.29 does not know, or refuses.
NEW: Final = {"name", "configs", "secrets", "include", "develop"}
NEW_OF_A_SERVICE: Final = {"develop", "post_start", "pre_stop", "gpus", "provider", "attach"}
SECRETS: Final = {"JWT_SECRET", "ADMIN_TOKEN"}


def read(file: str) -> dict[str, Any]:
    found = yaml.safe_load((ROOT / file).read_text())
    assert isinstance(found, dict)
    return found


def services() -> list[Any]:
    return [
        pytest.param(file, name, service, id=f"{file}-{name}")
        for file in FILES
        for name, service in read(file)["services"].items()
    ]


@pytest.mark.parametrize(("file", "name", "service"), services())
def test_every_container_is_held_to_as_little_as_it_needs(
    file: str, name: str, service: dict[str, Any]
) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[1-9][0-9]+:[1-9][0-9]+", service["user"])
    assert service["mem_limit"] == "256m"
    assert service["pids_limit"] <= 128
    assert not service.keys() & {"privileged", "cap_add", "devices", "pid", "ipc", "userns_mode"}
    assert service.get("network_mode") in (None, "none", "service:pod")
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:")
    for volume in service.get("volumes", ()):
        source, _, rest = volume.partition(":")
        # Of this machine only policies, and those read-only.
        assert not source.startswith(("/", "~"))
        assert not source.startswith(".") or ("/policies" in source and rest.endswith(":ro"))


@pytest.mark.parametrize(("file", "name", "service"), services())
def test_images_are_built_here_and_fetched_from_nobody(
    file: str, name: str, service: dict[str, Any]
) -> None:
    assert service["image"] in ("authz-sidecar:local", "authz-agent:local")
    assert service["pull_policy"] == "never"


@pytest.mark.parametrize(
    ("file", "agents"), [("compose.yaml", {"agent"}), (FILES[1], {"code-reviewer", "summarizer"})]
)
def test_an_agent_has_its_token_and_a_network_without_a_way_out(
    file: str, agents: set[str]
) -> None:
    whole = read(file)
    found = {name for name, service in whole["services"].items() if "agent" in service["image"]}
    assert found == agents
    for name in agents:
        agent = whole["services"][name]
        assert not agent["environment"].keys() & SECRETS
        assert [volume.partition(":")[2] for volume in agent["volumes"]] == ["/token:ro"]
        [network] = agent["networks"]
        assert whole["networks"][network]["internal"] is True
        assert agent["dns"] == "127.0.0.1"
        others = {
            other
            for other, service in whole["services"].items()
            if network in service.get("networks", ()) and other not in agents
        }
        assert others == ({"pod"} if file == "compose.yaml" else {f"{a}-sidecar" for a in agents})


def test_who_needs_no_secret_has_none() -> None:
    for file in FILES:
        for name, service in read(file)["services"].items():
            has = bool(service.get("environment", {}).keys() & SECRETS)
            assert has == (name in ("service", "token") or name.endswith(("-sidecar", "-token")))


def test_each_sidecar_is_for_one_agent() -> None:
    whole = read("compose.multi-agent.yaml")["services"]
    for name in ("code-reviewer", "summarizer"):
        sidecar = whole[f"{name}-sidecar"]
        assert sidecar["environment"]["SIDECAR_AGENT_ID"] == name
        assert whole[name]["environment"]["API_BASE_URL"] == f"http://{name}-sidecar:3100/proxy"
    private = [
        {volume.partition(":")[0] for volume in whole[f"{name}-sidecar"]["volumes"]} - {"secrets"}
        for name in ("code-reviewer", "summarizer")
    ]
    assert not private[0] & private[1]


@pytest.mark.parametrize("file", FILES)
def test_every_variable_is_a_setting_or_the_seeds(file: str) -> None:
    known = {row.name for row in described()}
    named = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / file).read_text()))
    ours = {"MESHGUARD_JWT_SECRET", "MESHGUARD_ADMIN_TOKEN", "PUBLISHED_PORT"}
    ours |= {"CODE_REVIEWER_TARGET", "SUMMARIZER_TARGET"}
    assert named <= known | ours
    deploy = (ROOT / "docs" / "deploy.md").read_text()
    assert all(f"`{name}`" in deploy for name in named)


@pytest.mark.parametrize("file", FILES)
def test_an_older_compose_reads_them_too(file: str) -> None:
    whole = read(file)
    assert not whole.keys() & NEW
    for service in whole["services"].values():
        assert not service.keys() & NEW_OF_A_SERVICE
        assert "start_interval" not in service.get("healthcheck", {})
        depends = service.get("depends_on", {})
        for one in depends.values() if isinstance(depends, dict) else ():
            assert one.keys() == {"condition"}


def test_the_images_version_is_ours() -> None:
    assert re.findall(r"^ARG VERSION=(.*)$", DOCKERFILE, re.MULTILINE) == [__version__]


def test_every_builder_reads_the_dockerfiles() -> None:
    for path in (ROOT / "deploy" / "Dockerfile", ROOT / "deploy" / "agent" / "Dockerfile"):
        text = path.read_text()
        assert not re.search(
            r"^# *syntax|<<|^RUN --|^(COPY|ADD) --(chmod|link)", text, re.MULTILINE
        )
        # No registry's host, and nothing that is fetched but through package managers.
        assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) <= {
            "python:3.11-slim-bookworm", "scratch",
        }  # fmt: skip
        assert not re.search(r"^ADD ", text, re.MULTILINE)


def test_a_builder_gets_no_more_than_the_image_is_made_from() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    copied = re.findall(r"^COPY ((?!--)[^\n]*?) \S+$", DOCKERFILE, re.MULTILINE)
    needed = {name for names in copied for name in names.split()}
    for name in needed:
        assert any(Path(name).match(rule.removeprefix("!")) for rule in rules[1:]), name


def test_the_example_agent_has_the_published_sdk_that_is_tested() -> None:
    [wanted] = re.findall(r"^meshguard==(\S+)$", agent_file("requirements.in"), re.MULTILINE)
    for text in (
        agent_file("requirements.txt"),
        (ROOT / "requirements" / "dev.txt").read_text(),
    ):
        assert f"meshguard=={wanted} " in text


def agent_file(name: str) -> str:
    return (ROOT / "deploy" / "agent" / name).read_text()
