"""The suite. `core/` needs nothing, `e2e/` starts the real Envoy."""
