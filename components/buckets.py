"""gs:// and s3:// for fsspec, through obstore, which the verified fetch reads releases with too.

Importing this module is enough: from then on fsspec knows both. Credentials are found as the clouds' own libraries find
them: key files, metadata servers, workload identity. What fails beyond a missing file raises BucketError.
"""
# pyright: basic
# obstore's fsspec classes are typed by protocol, and these are made by fsspec

from __future__ import annotations

import os
from typing import Any

import fsspec
from obstore.exceptions import BaseError as BucketError
from obstore.fsspec import FsspecStore

__all__ = ["BucketError", "first_line"]


class _GoogleStorage(FsspecStore):
    """Google Cloud Storage, or an emulator of it."""

    protocol = ("gs", "gcs")
    cachable = False  # the next one may be asked for with another environment

    def __init__(self, *args: Any, **options: Any):
        emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
        if emulator:
            address = emulator if "://" in emulator else f"http://{emulator}"
            options["config"] = {"base_url": address.rstrip("/"), "skip_signature": True}
            options["client_options"] = {"allow_http": address.startswith("http://")}
        super().__init__("gs", *args, **options)


class _S3(FsspecStore):
    """Amazon S3, or what speaks its language at AWS_ENDPOINT_URL."""

    protocol = ("s3", "s3a")
    cachable = False

    def __init__(self, *args: Any, **options: Any):
        # obstore reads the address itself, but refuses plain http unless it is told
        plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        super().__init__("s3", *args, client_options={"allow_http": plain}, **options)


for _kind in (_GoogleStorage, _S3):
    for _name in _kind.protocol:
        fsspec.register_implementation(_name, _kind, clobber=True)


def first_line(error: Exception) -> str:
    """What an error says before obstore's debug output."""
    return str(error).strip().partition("\n")[0]
