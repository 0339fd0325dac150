"""A sidecar that governs one AI agent.

Envoy carries the traffic; this package answers its ext_authz calls from an
in-memory snapshot of policies, and commits an audit row before every answer.
Start reading at `gate.py`: the whole path of a request is in that one place.
"""

__version__ = "0.1.0"
