"""Prints the chain, one stage a line, in the order in which a call meets them."""

from authz.core.stages import CHAIN

for stage in CHAIN:
    print(f"{stage.name:<16} {stage.judge.__module__}.{stage.judge.__name__}")
