"""Benchmarks: `python -m bench [NAME ...]`, or `make bench` for all of them.

Each prints progress to stderr and its figures as JSON to stdout, and keeps them in bench/results/.
All of them check the answers they get: a wrong one ends the run, however fast it was.
"""
