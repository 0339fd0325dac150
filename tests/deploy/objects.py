"""Rendered manifests as objects, and the few questions that tests ask of them."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tests.deploy.render import RENDERED

Object = dict[str, Any]

WORKLOADS: Final = ("Deployment", "StatefulSet")
#: The sidecar's user, as in the image.
SIDECAR_UID: Final = 10001


@dataclass(frozen=True)
class Manifest:
    """One rendered file."""

    name: str
    documents: list[Object]

    def of(self, *kinds: str) -> list[Object]:
        """Its objects of some kinds."""
        return [document for document in self.documents if document["kind"] in kinds]

    @property
    def workload(self) -> Object:
        """Its one StatefulSet or Deployment."""
        [found] = self.of(*WORKLOADS)
        return found

    @property
    def pod(self) -> Object:
        """The PodSpec of it."""
        spec: Object = self.workload["spec"]["template"]["spec"]
        return spec

    @property
    def containers(self) -> dict[str, Object]:
        """All containers of the pod by name, init containers first."""
        pod = self.pod
        every = [*pod.get("initContainers", []), *pod["containers"]]
        found = {container["name"]: container for container in every}
        assert len(found) == len(every)
        return found

    @property
    def ours(self) -> dict[str, Object]:
        """Those that are the sidecar's."""
        return {name: found for name, found in self.containers.items() if name != "agent"}

    @property
    def front(self) -> Object:
        """The container with Envoy in it."""
        containers = self.containers
        return containers.get("envoy", containers["authz"])

    def data(self, name: str) -> dict[str, str]:
        """What a ConfigMap of it holds; nothing where it is somebody else's."""
        for found in self.of("ConfigMap"):
            if found["metadata"]["name"] == name:
                data: dict[str, str] = found["data"]
                return data
        return {}

    def variables(self, container: Object) -> dict[str, str]:
        """Its variables whose values stand in the manifest, its ConfigMaps' included."""
        found = {}
        for source in container.get("envFrom", []):
            found.update(self.data(source["configMapRef"]["name"]))
        for variable in container.get("env", []):
            if "value" in variable:
                found[variable["name"]] = variable["value"]
        return found

    def volume(self, name: str) -> Object:
        """A volume of the pod; a claim of the StatefulSet's counts as one."""
        claims = self.workload["spec"].get("volumeClaimTemplates", [])
        every = [
            *self.pod["volumes"],
            *({"name": claim["metadata"]["name"], "claim": claim["spec"]} for claim in claims),
        ]
        found: Object
        [found] = [volume for volume in every if volume["name"] == name]
        return found


def read(path: Path) -> Manifest:
    """One rendered file."""
    documents = [found for found in yaml.load_all(path.read_text(), yaml.CSafeLoader) if found]
    return Manifest(path.name.removesuffix(".yaml"), documents)


@functools.cache
def manifests() -> list[Manifest]:
    """Every rendered file, read once: not to be changed."""
    return [read(path) for path in sorted(RENDERED.glob("*.yaml"))]


def ports(container: Object) -> dict[str, int]:
    """The ports that a container names."""
    return {port["name"]: port["containerPort"] for port in container.get("ports", [])}


def strings(value: Any) -> Iterator[str]:
    """Every text anywhere in a value, keys included."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value
