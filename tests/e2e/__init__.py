"""Through a real Envoy, as an agent would, with the whole sidecar started by its own command."""
