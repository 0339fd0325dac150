"""The variables of the forward proxy and of capture."""

import ipaddress

import pytest

from authz.core.tiers import rank
from authz.settings import DENIED_NETWORKS, MAX_NETWORKS, Settings, SettingsError
from authz.wiring.identity import resident, warn_of_residents

BASE = {"JWT_SECRET": "s" * 32, "AUTHZ_RUN_DIR": "/r"}


def read(**env: str) -> Settings:
    return Settings.from_env({**BASE, **env})


def problems(**env: str) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        read(**env)
    return refused.value.problems


def test_both_are_off_unless_they_are_asked_for() -> None:
    settings = read()
    assert (settings.forward_proxy_port, settings.capture_port) == (None, None)
    assert settings.forward_proxy_host == "127.0.0.1"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.254", "0.0.0.0", "169.254.169.254", "224.0.0.1", "239.1.2.3",
        "255.255.255.255", "::", "::1", "fe80::1", "febf::1", "ff02::1", "fd00:ec2::254",
    ],
)  # fmt: skip
def test_what_nobody_may_reach_by_default(address: str) -> None:
    found = ipaddress.ip_address(address)
    assert any(found in network for network in DENIED_NETWORKS)


@pytest.mark.parametrize("address", ["10.0.0.1", "172.16.0.1", "192.168.0.1", "fd12::1", "8.8.8.8"])
def test_services_of_a_cluster_are_within_reach(address: str) -> None:
    assert not any(ipaddress.ip_address(address) in network for network in DENIED_NETWORKS)


def test_denied_networks_replace_the_default() -> None:
    settings = read(FORWARD_DENY_CIDRS=" 10.0.0.0/8, 2001:db8::/32 ,192.0.2.1")
    assert [str(network) for network in settings.forward_deny_cidrs] == [
        "10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32",
    ]  # fmt: skip


@pytest.mark.parametrize("value", ["10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/8;::/0", "localhost"])
def test_networks_that_are_none(value: str) -> None:
    [problem] = problems(FORWARD_DENY_CIDRS=value)
    assert problem.startswith("FORWARD_DENY_CIDRS: ")
    assert value not in problem


def test_networks_are_bounded() -> None:
    many = ",".join(f"10.0.{number}.0/24" for number in range(MAX_NETWORKS + 1))
    assert "1 to 256 networks" in problems(FORWARD_DENY_CIDRS=many)[0]


def test_captured_connections_are_somebodys() -> None:
    [problem] = problems(CAPTURE_PORT="15001")
    assert problem.startswith("CAPTURE_PORT: needs SIDECAR_AGENT_ID")
    assert read(CAPTURE_PORT="15001", SIDECAR_AGENT_ID="a").capture_port == 15_001


@pytest.mark.parametrize(
    ("env", "problem"),
    [
        ({"FORWARD_PROXY_PORT": "3100"}, "FORWARD_PROXY_PORT: must differ from PORT"),
        ({"FORWARD_PROXY_PORT": "70000"}, "FORWARD_PROXY_PORT: must be from 1 to 65535"),
        (
            {"FORWARD_PROXY_PORT": "1", "CAPTURE_PORT": "1", "SIDECAR_AGENT_ID": "a"},
            "CAPTURE_PORT: must differ from FORWARD_PROXY_PORT",
        ),
        ({"SIDECAR_AGENT_TIER": "basic"}, "SIDECAR_AGENT_TIER: has no effect without"),
        ({"SIDECAR_AGENT_TAGS": "a"}, "SIDECAR_AGENT_TAGS: has no effect without"),
        ({"SIDECAR_AGENT_ORG": "a"}, "SIDECAR_AGENT_ORG: has no effect without"),
        ({"SIDECAR_AGENT_TIER": "root", "SIDECAR_AGENT_ID": "a"}, "SIDECAR_AGENT_TIER: must be"),
        ({"SIDECAR_AGENT_TAGS": "a,b\nc", "SIDECAR_AGENT_ID": "a"}, "SIDECAR_AGENT_TAGS: must be"),
        ({"SIDECAR_AGENT_ORG": "a\tb", "SIDECAR_AGENT_ID": "a"}, "SIDECAR_AGENT_ORG: may only"),
        ({"FORWARD_PROXY_HOST": "proxy.example"}, "FORWARD_PROXY_HOST: not an IP address"),
    ],
)
def test_each_mistake_is_one_sentence(env: dict[str, str], problem: str) -> None:
    [said] = problems(**env)
    assert said.startswith(problem)


def test_the_pods_agent_is_described() -> None:
    settings = read(
        SIDECAR_AGENT_ID="a", SIDECAR_AGENT_TIER="Verified", SIDECAR_AGENT_TAGS=" x , y,,x",
        SIDECAR_AGENT_ORG="o",
    )  # fmt: skip
    assert (settings.agent_tier, settings.agent_tags, settings.agent_org) == (
        "Verified", ("x", "y"), "o",
    )  # fmt: skip
    assert read(SIDECAR_AGENT_ID="a").agent_tier == "unverified"
    # And that is who sends without a token.
    found = resident(settings)
    assert found is not None
    assert (found.agent_id, found.tags, found.org_id) == (
        "a", frozenset({"x", "y"}), "o",
    )  # fmt: skip
    assert found.rank == found.effective_rank == rank("verified")
    assert resident(read()) is None


@pytest.mark.parametrize(
    ("env", "warns"),
    [
        ({}, False),
        ({"FORWARD_PROXY_HOST": "::1"}, False),
        ({"FORWARD_PROXY_HOST": "0.0.0.0"}, True),
        ({"FORWARD_PROXY_HOST": "10.0.0.7"}, True),
        # Everybody needs a token there.
        ({"FORWARD_PROXY_HOST": "0.0.0.0", "SIDECAR_AGENT_ID": ""}, False),
        ({"FORWARD_PROXY_HOST": "0.0.0.0", "FORWARD_PROXY_PORT": ""}, False),
    ],
)
def test_a_forward_proxy_that_makes_everybody_the_pods_agent_is_warned_of(
    env: dict[str, str], warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_residents(read(**{"FORWARD_PROXY_PORT": "3128", "SIDECAR_AGENT_ID": "a"} | env))
    said = "FORWARD_PROXY_HOST: whoever reaches"
    assert [said in line for line in caplog.messages] == [True] * warns
