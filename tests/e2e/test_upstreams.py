"""PROXY_TARGET in its forms: http and https, with a prefix, a port, a name or an address."""

from pathlib import Path

import pytest

from tests.e2e import sidecar as starter
from tests.e2e import upstream as upstreams
from tests.e2e.certificates import self_signed
from tests.e2e.sidecar import bearer
from tests.e2e.upstream import Upstream, echoed


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for `localhost` and 127.0.0.1 that signs itself, and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))


def test_a_prefix_is_put_before_the_path(upstream: Upstream) -> None:
    with starter.running(upstream, target=f"{upstream.url}/v1/base/") as sidecar:
        said = echoed(sidecar.get("/proxy/docs/x?q=1", headers=bearer()).text)
        assert (said["path"], said["query"]) == ("/v1/base/docs/x", "q=1")
        # The policy judges what comes after /proxy/, not the prefix.
        assert sidecar.row()["action"] == "read:docs/x"


def test_a_name_is_resolved_and_sent_as_host(upstream: Upstream) -> None:
    port = upstream.url.rpartition(":")[2]
    with starter.running(upstream, target=f"http://localhost:{port}") as sidecar:
        said = echoed(sidecar.get("/proxy/docs", headers=bearer()).text)
        assert said["headers"]["host"] == f"localhost:{port}"


def test_an_ipv6_literal() -> None:
    with upstreams.serving(host="::1") as upstream, starter.running(upstream) as sidecar:
        said = echoed(sidecar.get("/proxy/docs", headers=bearer()).text)
        assert said["headers"]["host"] == upstream.url.removeprefix("http://")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_https_is_verified_against_the_trusted_certificates(
    certificate: tuple[Path, Path], host: str
) -> None:
    cert, key = certificate
    with upstreams.serving(certificate=cert, key=key) as upstream:
        target = upstream.url.replace("127.0.0.1", host)
        with starter.running(upstream, target=target, SSL_CERT_FILE=str(cert)) as sidecar:
            answer = sidecar.get("/proxy/docs", headers=bearer())
            assert answer.status_code == 200
            assert upstream.hits == 1


def test_an_untrusted_or_misnamed_https_upstream_gets_nothing(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    cert, key = certificate
    with upstreams.serving(certificate=cert, key=key) as upstream:
        other, _ = self_signed(tmp_path)
        misnamed = upstream.url.replace("127.0.0.1", "127.0.0.2")
        for target, trusted in ((upstream.url, other), (misnamed, cert)):
            with starter.running(upstream, target=target, SSL_CERT_FILE=str(trusted)) as sidecar:
                answer = sidecar.get("/proxy/docs", headers=bearer())
                assert answer.status_code == 503
                assert answer.json()["error"] == "upstream_unreachable"
        assert upstream.hits == 0


def test_an_upstream_that_is_not_there_is_503_json(upstream: Upstream) -> None:
    target = f"http://127.0.0.1:{starter.free_port()}"
    with starter.running(upstream, target=target) as sidecar:
        answer = sidecar.get("/proxy/docs", headers=bearer())
        assert answer.status_code == 503
        assert answer.json()["error"] == "upstream_unreachable"
        # It was allowed and recorded; what failed came after.
        assert answer.headers["x-meshguard-decision"] == "allow"
        assert sidecar.row()["decision"] == "allow"


def test_an_upstreams_own_401_passes_through_with_our_mark(upstream: Upstream) -> None:
    with starter.running(upstream) as sidecar:
        answer = sidecar.get("/proxy/__hits", headers=bearer())
        assert answer.json() == {"hits": upstream.hits}
        assert answer.headers["x-meshguard-decision"] == "allow"
