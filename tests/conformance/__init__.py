"""The wire contract, row by row: a real sidecar behind a real Envoy against what is published.

Written from the contract and not from the code, so that the two can disagree. Each module has one
section of it, each test the row or rows that it holds true (`rows.covers`), and a test of its own
looks that no row is left out.
"""
