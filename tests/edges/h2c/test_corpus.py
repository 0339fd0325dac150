"""The fuzzer's inputs, one by one and without the fuzzer: what it once found stays found."""

from pathlib import Path
from typing import Final

import pytest

from fuzz.h2c import one_input

CORPUS: Final = Path(__file__).parents[3] / "fuzz" / "corpus" / "h2c"


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_the_corpus(path: Path) -> None:
    one_input(path.read_bytes())


def test_it_has_conversations_of_real_peers_and_something_of_each_rfc() -> None:
    names = [path.name for path in CORPUS.iterdir()]
    assert {"real-curl", "real-envoy", "real-grpcio", "real-h2load", "real-nghttp"} <= set(names)
    for prefix in ("3.4-", "4.", "5.", "6.", "8.", "hpack-", "grpc-", "moves-", "check-request"):
        assert any(name.startswith(prefix) for name in names), prefix
