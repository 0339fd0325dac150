"""Bundles of policies: one file that is built, signed, and taken only when it is what was signed.

A gzip'ed tar archive with the policy files at its root (the seed's `tar czf policies.tar.gz -C
policies/ .`), a signature beside it as cosign makes it, and, in bundles that are built here, a
manifest with a version inside what is signed. `accept.accept` says whether one is to be taken.
"""
