"""Brings the parts of manifests/upstream.yaml to a cluster: `make platform`, `make platform-plan`.

Not named `platform`, which is a module of Python's own that `python manifests/rights.py` would then find here.
"""
