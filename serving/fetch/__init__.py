"""Copies a release from where releases are published, and lets nothing through that is not exactly that release.

An init container runs `python -m serving.fetch URI DESTINATION` before the server starts (fetch.py tells the order).
"""
