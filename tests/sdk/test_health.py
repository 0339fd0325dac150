"""`health` and `is_healthy`, of a gateway that is well, that is not, and that is not there."""

import httpx
import pytest
from meshguard import MeshGuardClient, MeshGuardError

from tests.e2e import sidecar as starter
from tests.sdk.gateway import Gateway
from tests.sdk.surface import drives


@drives("MeshGuardClient.health", "MeshGuardClient.is_healthy")
def test_anybody_is_told_that_it_is_well(gateway: Gateway) -> None:
    client = gateway.client()
    said = client.health()
    assert (said["status"], said["mode"]) == ("healthy", gateway.mode)
    assert said["checks"] == {"database": "ok", "policies": "ok"}
    assert client.is_healthy() is True
    assert gateway.rows(client) == []


@drives("MeshGuardClient.health", "MeshGuardClient.is_healthy", "MeshGuardClient.check")
def test_one_that_cannot_record_is_not_well_and_allows_nothing() -> None:
    with starter.directory() as directory:
        database = directory / "corrupt.db"
        database.write_bytes(b"no database" * 1000)
        with (
            starter.demo(AUDIT_DB_PATH=str(database)) as sidecar,
            MeshGuardClient(sidecar.url, "whoever") as client,
        ):
            assert client.health()["status"] == "unhealthy"
            assert client.is_healthy() is False
            # Broken is not denied.
            for attempt in (client.check, lambda action: client.get("docs", action)):
                with pytest.raises(MeshGuardError, match=r"^Request failed: 503 ") as caught:
                    attempt("read:docs")
                assert type(caught.value) is MeshGuardError


@drives("MeshGuardClient.health", "MeshGuardClient.is_healthy")
def test_one_that_is_not_there_is_not_well() -> None:
    with MeshGuardClient(f"http://127.0.0.1:{starter.free_port()}") as client:
        assert client.is_healthy() is False
        with pytest.raises(httpx.ConnectError):
            client.health()
