"""Taking an uploaded trail in, in a process that nothing else depends on.

`worker` is that process, and `taker` the service's side.
"""
