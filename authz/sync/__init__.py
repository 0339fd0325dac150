"""Synchronisation with a control plane: policies in, audit rows out, when there is a network.

- Nothing here is on the path of a decision. The service starts `python -m authz.sync` for each
  turn (`authz/wiring/syncing.py`), the commands do the same turn themselves (`authz sync`).
- A turn may be killed anywhere: what is in force is replaced whole or not at all, and what was sent
  twice is counted by the control plane, not doubled.
- What a control plane answers is not believed: sizes, times and forms are bounded, no redirect is
  followed, and nothing is in force that `authz.bundles.accept` has not accepted.
"""
