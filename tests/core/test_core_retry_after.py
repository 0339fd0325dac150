"""When whoever has refused something wants to be asked again."""

import pytest

from authz.core.retry_after import retry_after

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60),
        ("Tue, 14 Nov 2023 22:12:20 GMT", 0),
        ("", 0),
        ("-5", 0),
        ("1.5", 0),
        ("nan", 0),
        ("soon", 0),
        ("\u0661", 0),
        ("9" * 400, 0),
        ("Tue, 14 Nov 99999 22:14:20 GMT", 0),
    ],
)
def test_seconds_or_a_date_and_nothing_else(said: str, seconds: float) -> None:
    assert retry_after(said, NOW) == seconds
