"""What holds for every test and every process that one starts."""

from __future__ import annotations

import os

# A proxy of the environment leads to the internet, not to our own ports. Libraries read one spelling or the other.
_DIRECT = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, [_DIRECT, "127.0.0.1,localhost"]))
