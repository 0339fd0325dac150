"""The published Python SDK, as its package installs it, against what `make run` starts.

- Every test runs in every mode, in a demo each that is started once; what only one mode does, or
  no sidecar is needed for, is said in the test.
- `surface.py` is the list of what the package has. A test says what of it it drives, and fails if
  it did not; a package with more in it than is listed and driven fails too.
- What a call comes to is told three times: what the SDK hands back or raises, the row in the
  database, and what has reached the upstream. A caller has a trace of its own for that.
- Nothing here stands in for the SDK; of LangChain, which it wants for one function, only that
  function's two names are made up.
"""
