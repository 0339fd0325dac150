"""Alerts: raised from the audit trail, kept in an outbox, delivered by a thread a destination.

`raising` reads the trail and fills the outbox; `delivering` empties it by way of `destinations`,
whose connections `outgoing` makes; `service` is all of it together.
"""
