"""Fetching policies: what a control plane may do, and what is here afterwards."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import certifi
import pytest

from authz.bundles.build import build, build_plain
from authz.stores.files import replace
from authz.sync import client, download, place, state
from authz.sync.errors import Cause, SyncFailed
from authz.sync.plan import Plan
from authz.sync.pull import public_keys, pull
from tests.sync import plane as planes
from tests.sync.plane import Plane, Request, Signer, bundle, giving, plan, policy

ROOT: Final = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[Plane]:
    with planes.plane() as made:
        yield made


@pytest.fixture
def there(server: Plane) -> Plane:
    server.requests.clear()
    return server


def _failed(directory: Path, url: str, **changes: object) -> SyncFailed:
    with pytest.raises(SyncFailed) as caught:
        pull(plan(directory, url, **changes))
    assert planes.TOKEN not in str(caught.value)
    return caught.value


def _policies(directory: Path) -> dict[str, bytes]:
    root = directory / "policies"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_the_files_of_a_bundle_become_the_directory(there: Plane, tmp_path: Path) -> None:
    there.answer = giving(bundle(1, "one", "two"))
    done = pull(plan(tmp_path, there.url))
    assert (done.changed, done.version, done.files) == (True, 1, 2)
    assert _policies(tmp_path) == {"one.yaml": policy("one"), "two.yaml": policy("two")}
    assert there.sent("accept-encoding") == ["identity"]
    # Nobody has signed it, and nobody here could tell.
    assert "not known" in done.warnings[0]


def test_what_is_known_is_not_sent_again(there: Plane, tmp_path: Path) -> None:
    there.answer = giving(bundle(1, "one"), etag='"a"')
    here = plan(tmp_path, there.url)
    assert pull(here).changed
    assert not pull(here).changed
    assert there.sent("if-none-match") == ["", '"a"']
    assert pull(here, again=True).changed is False
    assert there.sent("if-none-match")[-1] == ""


def test_what_somebody_has_changed_here_is_mended(there: Plane, tmp_path: Path) -> None:
    there.answer = giving(bundle(1, "one"), etag='"a"')
    here = plan(tmp_path, there.url)
    pull(here)
    (tmp_path / "policies/one.yaml").write_bytes(b"name: other\n")
    assert pull(here).written == ("one.yaml",)
    assert _policies(tmp_path) == {"one.yaml": policy("one")}


def test_files_that_are_gone_go_and_those_of_others_stay(there: Plane, tmp_path: Path) -> None:
    here = plan(tmp_path, there.url)
    there.answer = giving(bundle(1, "one", "two", "three"))
    pull(here)
    (tmp_path / "policies/mine.yaml").write_bytes(b"name: mine\n")
    (tmp_path / "policies/three.yaml").write_bytes(b"name: changed\n")
    there.answer = giving(bundle(2, "two", one=policy("one", "allow")))
    there.answer = giving(bundle(2, "two"))
    done = pull(here)
    assert done.removed == ("one.yaml",)
    assert "three.yaml" in done.warnings[-1]
    assert set(_policies(tmp_path)) == {"two.yaml", "mine.yaml", "three.yaml"}


def test_files_in_directories_come_and_go(there: Plane, tmp_path: Path) -> None:
    here = plan(tmp_path, there.url)
    there.answer = giving(bundle(1, **{"a/b/deep": policy("deep"), "top": policy("top")}))
    pull(here)
    assert set(_policies(tmp_path)) == {"a/b/deep.yaml", "top.yaml"}
    there.answer = giving(bundle(2, "top"))
    pull(here)
    assert sorted(p.name for p in (tmp_path / "policies").iterdir()) == ["top.yaml"]


def test_a_link_in_the_directory_leads_nowhere(there: Plane, tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "policies/a").symlink_to(tmp_path / "elsewhere")
    there.answer = giving(bundle(1, **{"a/one": policy("one")}))
    assert _failed(tmp_path, there.url).cause is Cause.DISK
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_config_map_is_not_written(there: Plane, tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/..data").symlink_to(".")
    there.answer = giving(bundle(1, "one"))
    assert "ConfigMap" in str(_failed(tmp_path, there.url))


def test_a_signed_bundle_takes_the_place_of_the_old_one(there: Plane, tmp_path: Path) -> None:
    signer, data = Signer(), bundle(1, "one")
    here = _bundled(tmp_path, there, signer)
    there.answer = giving(data, signature=signer.sign(data))
    done = pull(here)
    assert done.changed
    assert len(done.key_id) == 64
    assert (tmp_path / "b.tar.gz").read_bytes() == data
    there.answer = giving(data, signature=signer.sign(data))
    assert not pull(here).changed


def _bundled(tmp_path: Path, there: Plane, signer: Signer) -> Plan:
    return plan(
        tmp_path,
        there.url,
        bundle=str(tmp_path / "b.tar.gz"),
        signature=str(tmp_path / "b.tar.gz.sig"),
        keys=(str(signer.public(tmp_path / "cosign.pub")),),
        floor_file=str(tmp_path / "floor"),
    )


def test_a_signature_is_also_taken_from_its_own_address(there: Plane, tmp_path: Path) -> None:
    signer, data = Signer(), bundle(1, "one")
    serving = giving(data)

    def answer(request: Request) -> None:
        if request.path == "/admin/policies/bundle.sig":
            request.say(200, signer.sign(data).encode())
        else:
            serving(request)

    there.answer = answer
    assert pull(_bundled(tmp_path, there, signer)).changed


@pytest.mark.parametrize("what", ["bit", "key", "none", "old", "same", "future", "no_manifest"])
def test_what_is_not_to_be_taken_replaces_nothing(there: Plane, tmp_path: Path, what: str) -> None:
    signer, data = Signer(), bundle(2, "one")
    here = _bundled(tmp_path, there, signer)
    there.answer = giving(data, signature=signer.sign(data))
    pull(here)
    other = {
        "old": bundle(1, "one"),
        "same": bundle(2, "other"),
        "no_manifest": build_plain({"a.yaml": policy("a")}, created=1),
        "future": build({"a.yaml": policy("a")}, version=3, created=time.time() + 4000),
    }.get(what, bundle(3, "one"))
    signature = signer.sign(other)
    if what == "bit":
        other = other[:-1] + bytes([other[-1] ^ 1])
    if what == "key":
        signature = Signer().sign(other)
    if what == "none":
        signature = ""
    there.answer = giving(other, signature=signature)
    with pytest.raises(SyncFailed) as caught:
        pull(here)
    failure = caught.value
    assert failure.cause is Cause.BUNDLE
    assert "what is in force stays" in str(failure)
    assert (tmp_path / "b.tar.gz").read_bytes() == data


def test_whatever_moment_it_is_cut_off_in_the_pair_fits(
    there: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the renames the signature file has both signatures."""
    signer, old, new = Signer(), bundle(1, "one"), bundle(2, "two")
    here = _bundled(tmp_path, there, signer)
    there.answer = giving(old, signature=signer.sign(old))
    pull(here)
    there.answer = giving(new, signature=signer.sign(new))
    keys = public_keys(here.keys)
    assert keys is not None
    seen = []
    really = replace

    def watched(path: Path, data: bytes, mode: int) -> None:
        really(path, data, mode)
        pair = (tmp_path / "b.tar.gz").read_bytes(), (tmp_path / "b.tar.gz.sig").read_bytes()
        seen.append(pair[0] == new)
        keys.verify(*pair)

    monkeypatch.setattr(place, "replace", watched)
    pull(here)
    assert seen == [False, True, True]


@pytest.mark.parametrize("bundled", [True, False])
def test_one_with_an_error_replaces_nothing(there: Plane, tmp_path: Path, bundled: bool) -> None:
    """After a restart the file in error would be left out, and a deny with it."""
    signer = Signer()
    here = _bundled(tmp_path, there, signer) if bundled else plan(tmp_path, there.url)
    good, bad = bundle(1, "one"), bundle(2, "one", two=b"name: two\nrules: 7\n")
    there.answer = giving(good, signature=signer.sign(good))
    pull(here)
    there.answer = giving(bad, signature=signer.sign(bad))
    with pytest.raises(SyncFailed, match=r"two\.yaml:2:8: .*what is in force stays") as caught:
        pull(here)
    assert caught.value.cause is Cause.BUNDLE
    assert bundled or set(_policies(tmp_path)) == {"one.yaml"}
    mended = bundle(2, "one", "two")
    there.answer = giving(mended, signature=signer.sign(mended))
    assert pull(here).version == 2


def test_an_empty_bundle_does_not_deny_everything(there: Plane, tmp_path: Path) -> None:
    there.answer = giving(build_plain({"README.md": b"nothing"}, created=1))
    assert "no policy file" in str(_failed(tmp_path, there.url))


def test_a_directory_is_not_enough_where_signatures_are_required(tmp_path: Path) -> None:
    failure = _failed(tmp_path, "http://127.0.0.1:9", require_signed=True)
    assert "POLICY_BUNDLE" in str(failure)


def _html(request: Request) -> None:
    request.say(200, b"<html>log in</html>", content_type="text/html; charset=utf-8")


def _html_as_gzip(request: Request) -> None:
    request.say(200, b"<html>log in</html>", content_type="application/gzip")


def _redirect(request: Request) -> None:
    request.say(302, location="http://169.254.169.254/latest?token=abc", set_cookie="a=b")


def _ssh(request: Request) -> None:
    request.wfile.write(b"SSH-2.0-OpenSSH\r\n")
    request.close_connection = True


ANSWERS: Final = {
    "html": (_html, Cause.NOT_A_GATEWAY, "text/html"),
    "html_as_gzip": (_html_as_gzip, Cause.NOT_A_GATEWAY, "gzip'ed archive"),
    "redirect": (_redirect, Cause.REDIRECTED, "redirect to 169.254.169.254, which is not followed"),
    "401": (lambda r: r.say(401), Cause.UNAUTHORISED, "SYNC_TOKEN"),
    "404": (lambda r: r.say(404), Cause.MISSING, "older than this"),
    "500": (lambda r: r.say(500, b'{"message": "oh\\u001b"}'), Cause.SERVER, "oh\\x1b"),
    "204": (lambda r: r.say(204), Cause.NOT_A_GATEWAY, "HTTP 204"),
    "304": (lambda r: r.say(304), Cause.NOT_A_GATEWAY, "HTTP 304"),
    "206": (lambda r: r.say(206, b"\x1f\x8b"), Cause.NOT_A_GATEWAY, "range"),
    "large": (
        lambda r: r.say(200, content_length=str(1 << 40), content_type="application/gzip"),
        Cause.BUNDLE,
        "over 8 MiB",
    ),
    "deflated": (
        lambda r: r.say(200, b"\x1f\x8b", content_encoding="br"), Cause.NOT_A_GATEWAY, "compresses",
    ),
    "no_http": (_ssh, Cause.BROKEN_OFF, ""),
    "half_a_gzip": (
        lambda r: r.say(200, bundle(1, "one")[:-30], content_type="application/gzip"),
        Cause.BUNDLE,
        "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_is_none_changes_nothing_and_says_why(
    there: Plane, tmp_path: Path, name: str
) -> None:
    there.answer = giving(bundle(1, "one"))
    pull(plan(tmp_path, there.url))
    (tmp_path / "policies/one.yaml").touch()
    there.answer, cause, words = ANSWERS[name]
    (tmp_path / "state/pull.json").unlink()
    failure = _failed(tmp_path, there.url)
    assert failure.cause is cause, failure
    assert words in str(failure)
    assert cause.said
    assert _policies(tmp_path) == {"one.yaml": policy("one")}


def test_a_busy_one_says_when_to_come_again(there: Plane, tmp_path: Path) -> None:
    there.answer = lambda request: request.say(503, retry_after="120")
    assert _failed(tmp_path, there.url).retry_after_s == 120
    there.answer = lambda request: request.say(429, retry_after="nan")
    assert _failed(tmp_path, there.url).retry_after_s == 0


def test_a_download_that_breaks_off_is_gone_on_with(there: Plane, tmp_path: Path) -> None:
    data, cuts = bundle(1, *(f"p{n}" for n in range(30))), []

    def answer(request: Request) -> None:
        begin = int((request.headers["range"] or "bytes=0-")[6:-1])
        cuts.append(begin)
        whole = len(data) - begin if begin > 200 else 150
        request.send_response(206 if begin else 200)
        request.send_header("content-length", str(len(data) - begin))
        request.send_header("content-type", "application/gzip")
        request.send_header("etag", '"x"')
        if begin:
            request.send_header("content-range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        request.wfile.write(data[begin : begin + whole])
        request.close_connection = True

    there.answer = answer
    assert pull(plan(tmp_path, there.url)).files == 30
    assert cuts == [0, 150, 300]
    assert there.sent("if-range") == ["", '"x"', '"x"']
    assert not (tmp_path / "state/download.part").exists()


def test_one_that_cannot_go_on_is_begun_anew_also_by_another_turn(
    there: Plane, tmp_path: Path
) -> None:
    """The bundle has changed in between: the range is not given, and nothing is put together."""
    old, new = bundle(1, *(f"p{n}" for n in range(30))), bundle(2, "one")

    def cut(request: Request) -> None:
        if request.headers["range"]:
            request.close_connection = True
            return
        request.send_response(200)
        request.send_header("content-length", str(len(old)))
        request.send_header("content-type", "application/gzip")
        request.send_header("etag", '"old"')
        request.end_headers()
        request.wfile.write(old[:400])
        request.close_connection = True

    there.answer = cut
    assert _failed(tmp_path, there.url).cause is Cause.BROKEN_OFF
    assert (tmp_path / "state/download.part").stat().st_size == 400
    there.answer = giving(new)
    assert pull(plan(tmp_path, there.url)).version == 2
    assert there.sent("range")[-1] == "bytes=400-"


def test_nothing_there_and_no_such_name(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert "refused" in str(_failed(tmp_path, f"http://127.0.0.1:{port}"))
    failure = _failed(tmp_path, "http://no-such-name.invalid")
    assert failure.cause is Cause.UNREACHABLE
    assert "name" in str(failure)


def test_tls_that_is_not_trusted_or_none(there: Plane, tmp_path: Path) -> None:
    url = there.url.replace("http:", "https:")
    assert _failed(tmp_path, url, ca_file=certifi.where()).cause is Cause.TLS
    failure = _failed(tmp_path, url, ca_file=str(tmp_path / "none.pem"))
    assert str(failure).startswith("SYNC_CA_FILE: ")


def test_one_that_drips_is_not_waited_for(
    there: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time, the answer never would."""
    gone = threading.Event()

    def drip(request: Request) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Padding: ")
        while not gone.wait(0.02):
            request.wfile.write(b"x")

    there.answer = drip
    monkeypatch.setattr(
        client.ControlPlane.__init__, "__kwdefaults__", {"total_s": 0.3, "silent_s": 5}
    )
    try:
        assert _failed(tmp_path, there.url).cause is Cause.SLOW
    finally:
        gone.set()


def test_one_that_says_nothing_is_not_waited_for(
    there: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = threading.Event()

    def wait(request: Request) -> None:
        gone.wait(20)
        request.close_connection = True

    there.answer = wait
    monkeypatch.setattr(
        client.ControlPlane.__init__, "__kwdefaults__", {"total_s": 9, "silent_s": 0.2}
    )
    try:
        assert _failed(tmp_path, there.url).cause is Cause.SLOW
    finally:
        gone.set()


def test_a_full_disk_in_the_middle_leaves_what_was_there(there: Plane, tmp_path: Path) -> None:
    """A file of at most 32 KiB, by the kernel's own limit; the bundle has more."""
    there.answer = giving(bundle(1, "one"))
    here = plan(tmp_path, there.url)
    pull(here)
    large = {
        "one": policy("one", "allow"),
        "two": policy("two") + b"#" + os.urandom(48_000).hex().encode(),
    }
    there.answer = giving(bundle(2, **large))
    script = (
        "import resource, signal, sys, json\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (32768, 32768))\n"
        "from authz.sync.turn import answered\n"
        "print(answered(sys.stdin.buffer.read()).decode())\n"
    )
    asked = json.dumps({"direction": "pull", "plan": here.to_json()})
    done = subprocess.run(
        [sys.executable, "-c", script], input=asked, capture_output=True, text=True, cwd=ROOT,
        check=True, timeout=60,
    )  # fmt: skip
    failed = json.loads(done.stdout)["failed"]
    assert failed["cause"] == "disk"
    assert "File too large" in failed["sentence"]
    assert _policies(tmp_path) == {"one.yaml": policy("one")}
    # There is room again.
    assert pull(here).written


def test_a_file_that_cannot_be_written_keeps_all_of_them(there: Plane, tmp_path: Path) -> None:
    """What fails, fails before the first file has changed, and leaves nothing beside."""
    here = plan(tmp_path, there.url)
    there.answer = giving(bundle(1, "one"))
    pull(here)
    (tmp_path / "policies/a").write_text("a file where a directory is wanted")
    changed = {"one": policy("one", "allow"), "a/two": policy("two")}
    there.answer = giving(bundle(2, **changed))
    assert _failed(tmp_path, there.url).cause is Cause.DISK
    assert set(_policies(tmp_path)) == {"one.yaml", "a"}
    assert (tmp_path / "policies/one.yaml").read_bytes() == policy("one")


def test_there_are_never_two(there: Plane, tmp_path: Path) -> None:
    with state.State(tmp_path / "state", "pull").held():
        failure = _failed(tmp_path, there.url)
    assert failure.cause is Cause.LOCKED
    there.answer = giving(bundle(1, "one"))
    assert pull(plan(tmp_path, there.url)).changed


def test_a_damaged_state_is_as_none(there: Plane, tmp_path: Path) -> None:
    there.answer = giving(bundle(1, "one"))
    here = plan(tmp_path, there.url)
    pull(here)
    for damage in (b"", b"[]", b"{", b'{"files": {"../x": "1", "one.yaml": 5}, "url": 7}'):
        (tmp_path / "state/pull.json").write_bytes(damage)
        (tmp_path / "x").write_bytes(b"")
        assert pull(here).files == 1
        assert (tmp_path / "x").exists()


@pytest.mark.parametrize("etag", ['"\xe9"', '"a\r\nx: y"', "x" * 100_000, 5])
def test_a_damaged_tag_is_as_none(there: Plane, tmp_path: Path, etag: object) -> None:
    there.answer = giving(bundle(1, "one"))
    here = plan(tmp_path, there.url)
    pull(here)
    kept = tmp_path / "state/pull.json"
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "etag": etag}))
    assert not pull(here).changed
    assert there.sent("if-none-match")[-1] == ""


def test_cookies_are_not_kept(there: Plane, tmp_path: Path) -> None:
    signer, data = Signer(), bundle(1, "one")
    there.answer = giving(data, set_cookie="a=b")
    with contextlib.suppress(SyncFailed):
        pull(_bundled(tmp_path, there, signer))
    assert [path for path, _ in there.requests] == [
        f"GET {download.PATH}", f"GET {download.SIGNATURE_PATH}",
    ]  # fmt: skip
    assert there.sent("cookie") == ["", ""]
