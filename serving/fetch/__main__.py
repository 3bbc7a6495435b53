"""Fetch one release: `python -m serving.fetch URI DESTINATION`, as KServe calls a storage container.

URI is gs://, s3://, https://, http://, pvc://, file:// or an absolute path, and ends with the 64 hexadecimal digits of
the release's digest. Standard output gets one JSON object per event; the last line of standard error says in words
what failed. serving/fetch/settings.py lists the variables.

Exit codes: 0 the release is there, whole and verified; 1 the source is not exactly that release; 2 wrong usage;
3 the source could not be read; 4 the destination could not be written; 143 stopped by SIGTERM. After 3, 4 and 143 a
new start goes on where this one ended.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from pathlib import Path

from serving.environment import SettingsError
from serving.fetch.fetch import fetch
from serving.fetch.progress import Progress
from serving.fetch.settings import read_settings
from serving.fetch.source import BadUriError, NotThereError, SourceError, parse_uri
from serving.release import ReleaseError

# What stands here becomes the container's termination message, which KServe copies to the InferenceService.
_TERMINATION_LOG = Path("/dev/termination-log")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main() -> int:
    """Read the command line, fetch, say in words what went wrong."""
    parser = argparse.ArgumentParser(prog="python -m serving.fetch", description="Fetch and verify one release.")
    parser.add_argument("uri", help="where the release lies; ends with its digest (64 hexadecimal digits)")
    parser.add_argument("destination", type=Path, help="empty folder, or one that an interrupted fetch left")
    flags = parser.parse_args()
    # A container's first process ignores SIGTERM unless it says otherwise. Threads need not end: a restart goes on.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    try:
        settings = read_settings(os.environ)
        fetch(parse_uri(flags.uri), flags.destination, settings, Progress(settings.progress_seconds))
    except (BadUriError, SettingsError) as error:
        return _fail(2, str(error))
    except (ReleaseError, NotThereError) as error:
        return _fail(1, f"{flags.uri}: refused: {error}")
    except SourceError as error:
        return _fail(3, f"{flags.uri}: {error}")
    except OSError as error:
        reason = "no room" if error.errno in _NO_ROOM else "cannot be written"
        return _fail(4, f"{flags.destination}: {reason}: {error.strerror}")
    return 0


def _fail(code: int, message: str) -> int:
    print(f"serving.fetch: {message}", file=sys.stderr, flush=True)
    if _TERMINATION_LOG.exists() and os.access(_TERMINATION_LOG, os.W_OK):
        _TERMINATION_LOG.write_text(message)
    return code


if __name__ == "__main__":
    sys.exit(main())
