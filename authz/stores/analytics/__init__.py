"""What the audit trail says of a period in figures (CONTRACT §12), read and summed up by SQL.

- Rows of governed calls count, and nothing else: no changes, nothing that agents report themselves.
- What counts is what was decided, whatever the mode made of it. What could not be decided is a
  request, neither allowed nor denied.
- The period ends now, and its first moment is not in it: the one before ends with that.
- Where there is nothing the figure is 0. Latencies are milliseconds, rates per cent.
- `incomplete` stands where not all rows could be looked at in time, or where there were too many
  names to count, or to show, them all.
"""
