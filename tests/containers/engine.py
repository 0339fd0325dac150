"""The container engine, and the image that is made of these sources and of nothing else.

- Settings of testcontainers are read when it is imported: whoever imports it imports this first.
- An image is known by what went into it, a label with the hash of the build's context: not by a
  tag, which another checkout may have moved, and not by a date. What does not fit is built again,
  which costs a second where the builder has the layers. AUTHZ_IMAGE names another one, as it is.
- Whatever a session makes carries its label, volumes and networks too: also who kills a session
  leaves nothing that cannot be found (`org.testcontainers=true`).
"""

import contextlib
import fcntl
import functools
import gc
import hashlib
import os
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# No second container that cleans up, which would be an image to fetch; and no second between looks.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
os.environ.setdefault("TC_POOLING_INTERVAL", "0.1")
# Its plugins (compose, buildx) are found there; the tests get another HOME.
os.environ.setdefault("DOCKER_CONFIG", str(Path.home() / ".docker"))

import docker
from docker.errors import DockerException, ImageNotFound
from docker.utils import exclude_paths
from testcontainers.core.labels import LABEL_SESSION_ID, SESSION_ID

ROOT: Final = Path(__file__).parents[2]
DOCKERFILE: Final = ROOT / "deploy" / "Dockerfile"
#: What an image is known by.
SOURCES: Final = "authz-sidecar.sources"
TAG: Final = "authz-sidecar:tests"

LABELS: Final = {"org.testcontainers": "true", LABEL_SESSION_ID: SESSION_ID}

#: How often a proof is repeated that needs repeating. More than once means: take your time, and
#: do what takes minutes as well (`make containers`).
ROUNDS: Final = int(os.environ.get("CONTAINER_ROUNDS", "1"))
#: Seconds that a build may take, with nothing of it there.
BUILD_S: Final = 270


@functools.cache
def client() -> docker.DockerClient:
    """The engine that the environment names.

    Raises:
        DockerException: nobody answers.
    """
    # Patient: the engine of a busy machine may take its time to answer.
    return docker.from_env(timeout=120)


@functools.cache
def missing() -> str:
    """What is not here that the tests need; empty where all is."""
    # A client that reaches nobody leaves its socket to the collector.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            engine = client()
        except DockerException:
            engine = None
        gc.collect()
    if engine is None:
        return "no container engine"
    given = os.environ.get("AUTHZ_IMAGE")
    needed = given or base_image()
    try:
        engine.images.get(needed)
    except ImageNotFound:
        # A build would fetch the base as well, but could not say that this is what it lacked.
        if given or _fetch(needed):
            return f"no image {needed}, and it cannot be fetched"
    return ""


def base_image() -> str:
    """What our image is built from."""
    first = next(
        line for line in DOCKERFILE.read_text().splitlines() if line.upper().startswith("FROM ")
    )
    return first.split()[1]


def _fetch(image: str) -> int:
    return subprocess.run(
        ["docker", "pull", "--quiet", image], capture_output=True, check=False, timeout=240
    ).returncode


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process of this session at a time: the others find what it has built."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sidecar_image(lock: Path) -> str:
    """The id of the image to test, built unless it is there.

    Raises:
        subprocess.CalledProcessError: it cannot be built.
    """
    given = os.environ.get("AUTHZ_IMAGE")
    if given:
        return str(client().images.get(given).id)
    with _alone(lock):
        wanted = sources_hash()
        found = client().images.list(filters={"label": f"{SOURCES}={wanted}"})
        return str(found[0].id) if found else build(wanted, "--tag", TAG)


def build(sources: str, *options: str, timeout_s: float = BUILD_S) -> str:
    """Build the image; returns its id."""
    done = subprocess.run(
        [
            *("docker", "build", "--quiet", "--file", str(DOCKERFILE)),
            *("--label", f"{SOURCES}={sources}", *options, str(ROOT)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=timeout_s,
    )
    return done.stdout.strip()


def sources_hash() -> str:
    """What goes into the image: the paths, contents and modes of the build's context."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    digest = hashlib.sha256()
    for name in sorted(exclude_paths(str(ROOT), patterns, dockerfile="deploy/Dockerfile")):
        path = ROOT / name
        if path.is_symlink():
            digest.update(f"{name}\0{path.readlink()}\0".encode())
        elif path.is_file():
            content = path.read_bytes()
            mode = path.stat().st_mode & 0o111
            digest.update(f"{name}\0{mode}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def remove_leftovers() -> None:
    """Remove what this session made and did not remove itself."""
    mine: dict[str, str | list[str] | bool] = {"label": f"{LABEL_SESSION_ID}={SESSION_ID}"}
    for container in client().containers.list(all=True, filters=mine):
        with contextlib.suppress(docker.errors.NotFound):
            container.remove(force=True, v=True)
    for volume in client().volumes.list(filters=mine):
        with contextlib.suppress(docker.errors.NotFound):
            volume.remove(force=True)
    for network in client().networks.list(filters=mine):
        with contextlib.suppress(docker.errors.NotFound):
            network.remove()
