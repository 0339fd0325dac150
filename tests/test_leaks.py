"""What looks for secrets finds them, in every form and place, and nothing else."""

import base64
import logging
from pathlib import Path
from urllib.parse import quote

import pytest

from authz.core.delegation.receipt import TYPE
from authz.core.identity import mint
from tests import leaks
from tests.leaks import Leak, Listener

SECRET = "a secret/of the tests + 32 characters"
TOKEN = mint("s" * 32, agent_id="anna", now=1.8e9, ttl_s=60)


@pytest.mark.parametrize(
    "written",
    [
        SECRET,
        quote(SECRET),
        quote(SECRET, safe=""),
        SECRET.encode().hex(),
        base64.b64encode(SECRET.encode()).decode(),
        *(base64.b64encode(b"u:"[:more] + SECRET.encode()).decode() for more in range(3)),
    ],
)
def test_it_is_found_in_every_form(written: str) -> None:
    text = f"a line\n{written} and more\n".encode()
    with pytest.raises(
        Leak, match=r"^the log has the secret ADMIN_TOKEN in it, on line 2"
    ) as found:
        leaks.look([("the log", text)], {"ADMIN_TOKEN": SECRET})
    # Whoever reads the test's output learns no more than the log has told already.
    assert SECRET not in str(found.value)


def test_a_token_is_found_by_its_shape_and_a_receipt_is_none() -> None:
    with pytest.raises(Leak, match="has a token in it"):
        leaks.look([("the log", f"asked by {TOKEN}".encode())], {})
    header = base64.urlsafe_b64encode(f'{{"alg":"EdDSA","kid":"k","typ":"{TYPE}"}}'.encode())
    receipt = b".".join([header.rstrip(b"="), *TOKEN.encode().split(b".")[1:]])
    assert leaks.TOKEN.search(receipt)
    leaks.look([("the log", receipt)], {})


def test_every_file_is_looked_through_but_those_that_hold_it(tmp_path: Path) -> None:
    env = {"JWT_SECRET": "j" * 32, "PROXY_AUTHORIZATION_FILE": str(tmp_path / "key")}
    (tmp_path / "key").write_text(f"Bearer {SECRET[:8]}-upstream\n")
    (tmp_path / "data").mkdir()
    for name in ("stderr", "stdout", "data/audit.db", "data/audit.db-wal"):
        file = tmp_path / name
        file.write_text("nothing of it")
        leaks.left_behind(tmp_path, env)
        for said in ("j" * 32, f"{SECRET[:8]}-upstream", TOKEN):
            file.write_text(f"x {said} x")
            with pytest.raises(Leak, match=f"^{name} "):
                leaks.left_behind(tmp_path, env)
        file.unlink()


def test_made_up_secrets_and_keys_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "dev-secrets.json").write_text('{"JWT_SECRET": "made up for the demo alone"}')
    body = "MC4CAQAwBQYDK2VwBCIEIOtesting"
    begin, end = (f"-----{word} PRIVATE KEY-----" for word in ("BEGIN", "END"))
    (tmp_path / "audit.db.key").write_text(f"{begin}\n{body}\n{end}\n")
    leaks.left_behind(tmp_path, {})
    for said in ("made up for the demo alone", body):
        (tmp_path / "stderr").write_text(said)
        with pytest.raises(Leak, match="stderr"):
            leaks.left_behind(tmp_path, {})


def test_the_secrets_of_the_settings_are_known() -> None:
    assert {"JWT_SECRET", "ADMIN_TOKEN", "PROXY_AUTHORIZATION"} <= leaks.secret_variables()


def test_a_token_in_a_log_record_is_heard() -> None:
    listener, log = Listener(), logging.getLogger("apart")
    log.addHandler(listener)
    log.warning("asked by %s", "anna")
    assert listener.leaks == []
    log.warning("asked by %s", TOKEN)
    [leak] = listener.leaks
    assert "test_leaks.py" in leak
