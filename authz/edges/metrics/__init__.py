"""`/metrics`: what is counted while decisions are made, and what is looked up when somebody asks.

`catalogue` says what there is, `counts` counts on the hot path, `sources` looks the rest up and
`exposition` writes it out. Imported only where METRICS_ENABLED says so.
"""
