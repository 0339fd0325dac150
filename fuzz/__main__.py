"""Runs atheris: `python -m fuzz fuzz/corpus/h2c -max_total_time=120`, libFuzzer's arguments."""

import sys

import atheris

with atheris.instrument_imports(include=["authz", "hpack", "fuzz"]):
    from fuzz.h2c import one_input

atheris.Setup(sys.argv, one_input)
atheris.Fuzz()
