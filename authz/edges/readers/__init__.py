"""Processes that read the audit trail, so that whoever answers Envoy need not.

`pool` is the service's side, and `worker` the processes'; `jobs` is what they can do.
"""
