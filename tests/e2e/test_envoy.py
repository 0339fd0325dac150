"""Envoy by itself: the configuration in every variant, ECDS in place, metadata for its logs."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from authz import envoy_config
from authz.core.mode import Mode
from authz.edges import ext_authz
from authz.envoy_config import EnvoyOptions
from authz.envoy_config.target import Target
from authz.envoy_config.tls import ListenerTls, Pair, TargetTls
from authz.settings import Endpoint, parse_upstream
from authz.supervisor import envoy_binary
from authz.wiring import http
from tests.e2e import sidecar as starter
from tests.e2e.bare_envoy import connects, process
from tests.e2e.certificates import self_signed
from tests.e2e.sidecar import bearer, environment, free_port, wait_until
from tests.e2e.upstream import Upstream, echoed


def _options(
    run_dir: Path, target: str, mode: Mode = Mode.ENFORCE, port: int = 3100
) -> EnvoyOptions:
    ca_file, _ = self_signed(run_dir)
    return EnvoyOptions("127.0.0.1", port, mode, parse_upstream(target), run_dir, ca_file, 10_000)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:8080",
        "http://upstream.example:8080/v1",
        "https://httpbin.org",
        "https://10.0.0.1:8443/base",
        "https://[::1]/x",
    ],
)
def test_the_real_binary_accepts_every_variant_without_a_warning(target: str, mode: Mode) -> None:
    with starter.directory() as path:
        options = _options(path, target, mode)
        config = envoy_config.write(options, path)
        assert _complaints(config) == ""


def _production(folder: Path) -> dict[str, dict[str, Any]]:
    """What may differ from the usual, with files that are there: Envoy reads them also to look."""
    pair, ca = Pair(folder / "cert.pem", folder / "key.pem"), folder / "cert.pem"
    tls = ListenerTls(pair)
    target = Target(
        Endpoint("authz.example", 9191), Endpoint("192.0.2.1", 9192), TargetTls(ca, pair)
    )
    here = Target(Endpoint("127.0.0.1", 9191), Endpoint("::1", 9192), None)
    outward = {"forward": ("127.0.0.1", 15002), "capture": (("127.0.0.1", 15001), ("::1", 15001))}
    return {
        "usual": {},
        "outward": outward,
        "tls": {"tls": tls},
        "mutual tls": {"tls": tls._replace(client_ca=ca)},
        "elsewhere": {"target": target},
        "elsewhere, unknown": {"target": target._replace(tls=TargetTls(ca))},
        "by tcp": {"target": here},
        "workers": {"workers": 64},
        "log": {"access_log": True},
        "log with probes": {"access_log": True, "access_log_probes": True},
        "all": {"tls": tls, "target": target, "workers": 2, "access_log": True, **outward},
    }


KINDS = list(_production(Path("/")))


@pytest.mark.parametrize("kind", KINDS)
def test_the_real_binary_accepts_what_production_wants(kind: str) -> None:
    with starter.directory() as path:
        options = replace(_options(path, "https://httpbin.org"), **_production(path)[kind])
        assert _complaints(envoy_config.write(options, path)) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_the_same_listeners_without_an_admin_endpoint(kind: str) -> None:
    """Which come from a file of their own then, and that is not looked at by `--mode validate`."""
    with starter.directory() as path:
        options = replace(_options(path, "https://httpbin.org"), **_production(path)[kind])
        whole = envoy_config.documents(options, path)
        parts = envoy_config.documents(replace(options, admin=False), path)
        bootstrap = parts[envoy_config.BOOTSTRAP_FILE]
        assert "admin" not in bootstrap
        listeners = parts[envoy_config.LISTENERS_FILE]["resources"]
        kinds = {listener.pop("@type") for listener in listeners}
        assert kinds == {"type.googleapis.com/envoy.config.listener.v3.Listener"}
        static = whole[envoy_config.BOOTSTRAP_FILE]["static_resources"]
        assert listeners == static["listeners"]
        assert bootstrap["static_resources"] == {"clusters": static["clusters"]}
        assert _complaints(envoy_config.write(replace(options, admin=False), path)) == ""


def _complaints(config: Path) -> str:
    checked = subprocess.run(
        [envoy_binary(None), "--mode", "validate", "-l", "warning", "-c", config],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    # The supervisor says why Envoy warns of networks, and that nobody need hear it.
    lines = checked.stderr.strip().splitlines()
    return "\n".join(line for line in lines if "message 'xds.core.v3.CidrRange' is" not in line)


def test_envoys_limits_come_before_the_services() -> None:
    """So that what is too much is refused by Envoy, in JSON, and no connection is closed on it."""
    assert envoy_config.SERVICE_MAX_IN_FLIGHT < http.HTTP_MAX_IN_FLIGHT
    assert envoy_config.MAX_HEADERS_KIB * 1024 < http.HTTP_MAX_HEADERS
    assert envoy_config.MAX_HEADERS_KIB * 1024 < ext_authz.MAX_MESSAGE
    assert envoy_config.SERVICE_POOL_IDLE_S < http.HTTP_KEEP_ALIVE_S


@dataclass
class BareEnvoy:
    """An Envoy with our configuration and no supervisor."""

    client: httpx.Client
    options: EnvoyOptions


@contextlib.contextmanager
def _envoy(
    path: Path, target: str, mode: Mode, access_log: Path | None = None
) -> Iterator[BareEnvoy]:
    options = _options(path, target, mode, free_port())
    config = envoy_config.bootstrap(options, path)
    if access_log is not None:
        _add_access_log(config, access_log)
    envoy_config.write(options, path)
    (path / "envoy.yaml").write_text(envoy_config.to_yaml(config))
    client = httpx.Client(base_url=f"http://127.0.0.1:{options.port}")
    with process(path, path / "envoy.yaml"), contextlib.closing(client):
        wait_until(lambda: connects(client), "Envoy to listen")
        yield BareEnvoy(client, options)


_FILE_LOG = "envoy.extensions.access_loggers.file.v3.FileAccessLog"


def _add_access_log(config: dict[str, Any], path: Path) -> None:
    listener = config["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    names = ("decision_id", "agent_id", "policy", "rule", "policy_version", "enforced", "code")
    manager["access_log"] = [
        {
            "name": "file",
            "typed_config": {
                "@type": f"type.googleapis.com/{_FILE_LOG}",
                "path": str(path),
                "log_format": {
                    "json_format": {
                        name: f"%DYNAMIC_METADATA(envoy.filters.http.ext_authz:{name})%"
                        for name in names
                    }
                },
            },
        }
    ]
    manager["access_log_options"] = {"flush_access_log_on_new_request": False}


def test_a_change_of_mode_switches_failure_mode_in_place(upstream: Upstream) -> None:
    """No service at all, so each answer shows `failure_mode_allow`; one connection throughout."""
    with starter.directory() as path, _envoy(path, upstream.url, Mode.ENFORCE) as envoy:
        before = upstream.hits

        def status() -> int:
            return envoy.client.get("/proxy/docs", headers=bearer()).status_code

        assert status() == 503
        assert upstream.hits == before
        connections = _connections(path)
        for mode, expected in ((Mode.AUDIT, 200), (Mode.ENFORCE, 503), (Mode.BYPASS, 200)):
            _swap(path, replace(envoy.options, mode=mode))
            wait_until(lambda expected=expected: status() == expected, f"mode {mode}")  # type: ignore[misc]
        assert _connections(path) == connections


def _swap(path: Path, options: EnvoyOptions) -> None:
    draft = path / "ext_authz.draft.yaml"
    draft.write_text(envoy_config.to_yaml(envoy_config.ext_authz_discovery(options.mode, 10_000)))
    draft.rename(path / envoy_config.EXT_AUTHZ_FILE)


def _connections(path: Path) -> int:
    """How many connections clients have opened so far."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path / "envoy-admin.sock"))) as admin:
        answer = admin.get("http://envoy/stats?format=json&filter=http.sidecar.downstream_cx_total")
    return int(answer.json()["stats"][0]["value"])


def test_a_written_configuration_works_where_it_was_written(upstream: Upstream) -> None:
    with starter.directory() as path:
        port = free_port()
        env = environment(path, port, upstream.url)
        with starter.start(path, env, "envoy", "config", "--out", str(path / "etc")) as writing:
            assert writing.wait(starter.PATIENCE_S) == 0
        with (
            starter.start(path, env, "serve"),
            httpx.Client(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            wait_until((path / "run" / "http.sock").exists, "the service")
            with process(path, path / "etc/envoy.yaml"):
                wait_until(lambda: connects(client), "Envoy to listen")
                assert client.get("/proxy/docs", headers=bearer()).status_code == 200
                assert client.get("/proxy/docs").status_code == 401


def test_each_decision_is_in_envoys_dynamic_metadata(upstream: Upstream) -> None:
    with starter.directory() as path:
        env = environment(path, 3100, upstream.url, AUTHZ_RUN_DIR=str(path))
        log = path / "access.log"
        with (
            starter.start(path, env, "serve"),
            _envoy(path, upstream.url, Mode.ENFORCE, access_log=log) as envoy,
        ):
            wait_until(lambda: envoy.client.get("/").status_code == 200, "the service")
            allowed = envoy.client.get("/proxy/docs", headers=bearer())
            denied = envoy.client.get(
                "/proxy/docs", headers=bearer() | {"X-MeshGuard-Action": "admin:x"}
            )
            assert echoed(allowed.text)["path"] == "/docs"
            wait_until(lambda: log.read_text().count("rule_") == 2, "the access log")
        entries = [json.loads(line) for line in log.read_text().splitlines() if "rule_" in line]
        assert [(e["enforced"], e["code"], e["rule"]) for e in entries] == [
            ("allow", "rule_allowed", "rules[0]"), ("deny", "rule_denied", "rules[2]"),
        ]  # fmt: skip
        assert {entry["agent_id"] for entry in entries} == {"reviewer-1"}
        assert {entry["policy"] for entry in entries} == {"code-review-policy"}
        assert entries[1]["decision_id"] == denied.json()["decisionId"]
        assert all(entry["policy_version"] for entry in entries)
