"""A host has one spelling, and what could be taken for two hosts, or for an address, has none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.destination import MAX_AUTHORITY, destination


@pytest.mark.parametrize(
    ("authority", "whole"),
    [
        ("api.example.com:443", "api.example.com:443"),
        ("API.Example.COM.:443", "api.example.com:443"),
        ("localhost:8080", "localhost:8080"),
        ("my_service.default.svc.cluster.local:1", "my_service.default.svc.cluster.local:1"),
        ("xn--bcher-kva.example:443", "xn--bcher-kva.example:443"),
        ("10.0.0.1:65535", "10.0.0.1:65535"),
        ("1.2.3.4.example:443", "1.2.3.4.example:443"),
        ("0x7f.example:443", "0x7f.example:443"),
        ("[::1]:443", "[::1]:443"),
        ("[FE80:0:0:0::1]:443", "[fe80::1]:443"),
        ("[2001:db8:0:0:1:0:0:1]:443", "[2001:db8::1:0:0:1]:443"),
        (f"{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 61}.:65535",
         f"{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 61}:65535"),
    ],
)  # fmt: skip
def test_one_spelling(authority: str, whole: str) -> None:
    found = destination(authority)
    assert found.whole == whole
    assert destination(found.whole) == found


def test_the_usual_port_goes_without_saying() -> None:
    assert destination("a.test", 80).without(80) == "a.test"
    assert destination("a.test:80", 80) == destination("a.test", 80)
    assert destination("a.test:8080", 80).without(80) == "a.test:8080"
    assert destination("[::1]:80").without(80) == "[::1]"


@pytest.mark.parametrize(
    "authority",
    [
        "", ":443", ".:443", "a..b:443", "a.test..:443", "-a.test:443", "a-.test:443",
        f"{'a' * 64}.test:443", "a" * (MAX_AUTHORITY + 1),
        f"{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 62}:443",
        # What somebody takes for an address.
        "2130706433:443", "0x7f000001:443", "0x7f.1:443", "127.1:443", "0177.0.0.1:443",
        "127.0.0.1.:443", "1.2.3.4.5:443", "1.2.3:443", "256.0.0.1:443", "a.0x:443", "a.1:443",
        "[::ffff:127.0.0.1]:443", "[::ffff:7f00:1]:443", "[fe80::1%eth0]:443", "[fe80::1%25eth0]:1",
        "[127.0.0.1]:443", "[]:443", "[::1:443", "[::1]443", "::1:443", "[::1]x:443", "[v1.a]:443",
        # What somebody takes for another host.
        "user@a.test:443", "user:password@a.test:443", "a.test:443@b.test:443", "a.test@:443",
        "a test:443", " a.test:443", "a.test :443", "a.test:443 ", "a\t.test:443", "a.test\n:443",
        "a.test\0:443", "b\u00fccher.test:443", "a.test/x:443", "a.test#:443", "a.test?:443",
        "a\\b:443", "a%2etest:443", "*.test:443", "a,b:443", "http://a.test:443",
        "\u2024a.test:443", "\u0661.test:443", "\uff41.test:443",
        # Ports.
        "a.test:", "a.test:0", "a.test:00", "a.test:0443", "a.test:65536", "a.test:443:443",
        "a.test:+443", "a.test:4 4", "a.test:-1", "a.test:\u0664\u0664\u0663", "a.test:443a",
        "a.test",
    ],
)  # fmt: skip
def test_no_spelling(authority: str) -> None:
    with pytest.raises(ValueError, match=r"^host: ") as refused:
        destination(authority)
    assert "\n" not in str(refused.value)


@given(st.text(max_size=300))
def test_whatever_it_is_it_is_one_or_the_other(authority: str) -> None:
    try:
        found = destination(authority, 80)
    except ValueError:
        return
    assert destination(found.whole) == found
    assert set(found.host) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.[]:")
    assert 0 < found.port < 65_536
