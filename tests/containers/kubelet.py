"""A kubelet, as far as a pod of deploy/rendered needs one: its containers, in docker.

- What the manifest says is what is run: users, groups, capabilities, limits, commands, variables,
  volumes and probes are its own; images and processor time are not, nor what a test changes.
- Init containers run one after another; one that goes on running holds up the next until its
  startup probe succeeds (KEP-753). Then the others start, all at once.
- Volumes look as the kubelet makes them: a directory of everybody, of the pod's fsGroup and with
  its set-group-id bit (pkg/volume/emptydir, volume_linux.go); ConfigMaps with their links.
- Probes of HTTP and TCP go to the pod's address from outside, as the kubelet's do.
- A stock Envoy cannot be fetched everywhere: our image's, the same version, stands in for it. It is
  given the same command.
"""

import contextlib
import http.client
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from docker.models.containers import Container

from tests.containers import engine
from tests.containers.configmap import ConfigMap
from tests.containers.pods import ECHO_PORT, PATIENCE_S, until
from tests.deploy.objects import Manifest, Object

#: How many times a limit's processor time a container gets: what happens within the limit itself is
#: for benchmarks, and would take a minute here. Memory is limited as the manifest says.
PROCESSORS: Final = 4

_ECHO: Final = (
    *("-m", "uvicorn", "--factory", "authz.edges.echo_upstream:EchoUpstream"),
    *("--host", "127.0.0.1", "--port", str(ECHO_PORT), "--lifespan", "off"),
    *("--no-access-log", "--log-level", "warning"),
)


class Pod:
    """A pod that runs. Containers by name, ConfigMaps by name; both may be asked and changed."""

    def __init__(
        self,
        manifest: Manifest,
        image: str,
        directory: Path,
        *,
        secrets: Mapping[str, Mapping[str, str]],
        settings: Mapping[str, str],
        agent: list[str],
    ) -> None:
        """
        Args:
            secrets: what the Secrets hold that the manifest names.
            settings: what is changed of the ConfigMap of settings.
            agent: what the agent's container runs: a program of our image.
        """
        self.manifest = manifest
        self.containers: dict[str, Container] = {}
        self.maps: dict[str, ConfigMap] = {}
        self._image = image
        self._directory = directory
        self._secrets = secrets
        self._settings = settings
        self._agent = agent
        self._volumes: dict[str, str] = {}

    @property
    def address(self) -> str:
        """Where the node finds it."""
        return self._network("IPAddress")

    @property
    def node(self) -> str:
        """Where it finds the node, which is not itself."""
        return self._network("Gateway")

    def start(self) -> None:
        """Start everything, in the order of the kubelet."""
        for volume in {*(each["name"] for each in self.manifest.pod["volumes"]), "audit"}:
            self._make(volume)
        # It holds the volumes, too: docker forgets what is in one of memory with its last user.
        held = [f"{volume}:/held/{name}" for name, volume in self._volumes.items()]
        self._run("pause", ["python", *_ECHO], network="bridge", volumes=held)
        for container in self.manifest.pod.get("initContainers", []):
            self._start(container)
            if container.get("restartPolicy") == "Always":
                self.wait(container["name"], "startupProbe")
            else:
                self._ended(container["name"])
        for container in self.manifest.pod["containers"]:
            self._start(container)
        for container in self.manifest.pod["containers"]:
            if container["name"] != "agent":
                self.wait(container["name"], "startupProbe")

    def wait(self, name: str, kind: str) -> None:
        """Until a probe of a container succeeds."""
        probe = self.manifest.containers[name][kind]
        until(lambda: self._alive(name) and self.asks(name, probe), f"{kind} of {name}")

    def asks(self, name: str, probe: Object) -> bool:
        """Ask once, as a probe says."""
        patience = probe["timeoutSeconds"]
        if "exec" in probe:
            done = self.containers[name].exec_run(probe["exec"]["command"])
            return done.exit_code == 0
        way = probe.get("httpGet") or probe["tcpSocket"]
        named = {p["name"]: p["containerPort"] for p in self.manifest.containers[name]["ports"]}
        port = named.get(way["port"], way["port"])
        with contextlib.suppress(OSError):
            if "path" not in way:
                socket.create_connection((self.address, port), patience).close()
                return True
            asking = http.client.HTTPConnection(self.address, port, timeout=patience)
            with contextlib.closing(asking):
                asking.request("GET", way["path"])
                return 200 <= asking.getresponse().status < 400
        return False

    def exec(self, name: str, *command: str) -> str:
        """What a command prints that is run in a container."""
        done = self.containers[name].exec_run(list(command), demux=True)
        assert isinstance(done.output, tuple)
        out, err = ((part or b"").decode() for part in done.output)
        assert done.exit_code == 0, out + err
        return out

    def log(self, name: str) -> str:
        """What a container has written so far."""
        return bytes(self.containers[name].logs()).decode(errors="replace")

    def stop(self) -> None:
        """Remove everything, the volumes too."""
        for container in reversed(self.containers.values()):
            container.remove(force=True)
        for volume in self._volumes.values():
            if not volume.startswith("/"):
                engine.client().volumes.get(volume).remove()

    def _network(self, what: str) -> str:
        pause = self.containers["pause"]
        pause.reload()
        return str(pause.attrs["NetworkSettings"][what])

    def _alive(self, name: str) -> bool:
        container = self.containers[name]
        container.reload()
        assert container.status == "running", f"{name}: {self.log(name)}"
        return True

    def _ended(self, name: str) -> None:
        code = self.containers[name].wait(timeout=PATIENCE_S)["StatusCode"]
        assert code == 0, f"{name}: {self.log(name)}"

    def _make(self, name: str) -> None:
        volume = self.manifest.volume(name)
        if "configMap" in volume:
            source = volume["configMap"]["name"]
            self.maps[name] = ConfigMap(self._directory / name, self.manifest.data(source))
            self._volumes[name] = str(self._directory / name)
            return
        group = self.manifest.pod["securityContext"]["fsGroup"]
        # A claim's file system is its owner's and its group's, an emptyDir is everybody's.
        mode = 0o2775 if "claim" in volume else 0o2777
        made = engine.client().volumes.create(
            driver="local",
            driver_opts={
                "type": "tmpfs",
                "device": "tmpfs",
                "o": f"uid=0,gid={group},mode={mode:o}",
            },
            labels=engine.LABELS,
        )
        self._volumes[name] = str(made.id)

    def _start(self, container: Object) -> None:
        name = container["name"]
        context = container["securityContext"]
        command = [*container.get("command", []), *container.get("args", [])]
        options: dict[str, Any] = {}
        if name == "agent":
            command = self._agent
        elif "command" not in container:
            # The image's own entrypoint.
            options["entrypoint"] = None
        capabilities = context["capabilities"]
        assert not context["allowPrivilegeEscalation"]
        limits = container["resources"].get("limits", {})
        if limits:
            options["mem_limit"] = limits["memory"].replace("Mi", "m")
            millis = int(limits["cpu"].removesuffix("m"))
            options["nano_cpus"] = millis * 1_000_000 * PROCESSORS
        self._run(
            name,
            command,
            environment=self._variables(container),
            user=f"{context['runAsUser']}:{context['runAsGroup']}",
            group_add=[str(self.manifest.pod["securityContext"]["fsGroup"])],
            read_only=context["readOnlyRootFilesystem"],
            cap_drop=capabilities["drop"],
            cap_add=capabilities.get("add"),
            security_opt=["no-new-privileges"],
            network_mode=f"container:{self.containers['pause'].id}",
            volumes=[
                f"{self._volumes[mount['name']]}:{mount['mountPath']}"
                + (":ro" if mount.get("readOnly") else ":rw,nocopy")
                for mount in container.get("volumeMounts", [])
            ],
            **options,
        )

    def _run(self, name: str, command: list[str], **options: Any) -> None:
        if "entrypoint" not in options:
            options["entrypoint"] = command[:1]
            command = command[1:]
        self.containers[name] = engine.client().containers.run(
            self._image,
            command,
            detach=True,
            labels=engine.LABELS,
            healthcheck={"test": ["NONE"]},
            **options,
        )

    def _variables(self, container: Object) -> dict[str, str]:
        found = self.manifest.variables(container)
        for variable in container.get("env", []):
            if "valueFrom" in variable:
                key = variable["valueFrom"]["secretKeyRef"]
                found[variable["name"]] = self._secrets[key["name"]][key["key"]]
        changed = {name: text for name, text in self._settings.items() if name in found}
        return found | changed


@contextlib.contextmanager
def running(manifest: Manifest, image: str, directory: Path, **options: Any) -> Iterator[Pod]:
    """A pod that has started, and is removed in the end."""
    pod = Pod(manifest, image, directory, **options)
    try:
        pod.start()
        yield pod
    finally:
        pod.stop()
