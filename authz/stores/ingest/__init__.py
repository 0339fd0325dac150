"""Trails of other sidecars, taken in: `POST /admin/audit/ingest` (docs/audit.md).

    hostile.py   opens a database that anybody may have made, and believes nothing in it
    tables.py    what the ingested trail has besides a trail's own tables
    opening.py   the file of it, to be written in
    origins.py   which trail it is, and whether it goes on where it was known to end
    taking.py    rows into the ingested trail, all of a file or nothing
    reading.py   where rows of a time are in it, and where each came from
    keeping.py   what is signed there, and what is removed

The first five run in a process of their own (`edges/ingest`).
"""
