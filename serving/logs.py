"""Log lines as JSON, each with the request that it belongs to and the release that is served."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import warnings
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_GIVEN = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_OWN = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message", "taskName"}


def choose_request_id(given: str) -> str:
    """The id that a client gave in X-Request-Id when it is short and plain, else a new one of 16 hexadecimal digits."""
    return given if _GIVEN.fullmatch(given) else secrets.token_hex(8)


class JsonFormatter(logging.Formatter):
    """One JSON object a line; what is passed as `extra` stands beside time, level and message."""

    def __init__(self, release: str | None = None):
        super().__init__()
        self._release = release

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "severity": record.levelname,  # what Cloud Logging reads
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._release:
            line["release"] = self._release
        if (current := request_id.get()) is not None:
            line["request_id"] = current
        line |= {name: value for name, value in record.__dict__.items() if name not in _OWN}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # In ASCII: what a client put into a path can then neither break a line nor speak to a terminal.
        return json.dumps(line, ensure_ascii=True, default=str)


def configure_logs(level: str, release: str | None = None) -> None:
    """Send every logger's lines to standard error as JSON; KServe's and uvicorn's own formats are replaced."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(release))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # KServe configures its logger unless it has a handler already.
    kserve = logging.getLogger("kserve")
    kserve.handlers[:] = [handler]
    kserve.propagate = False
    # Its timing lines and uvicorn's access lines say less than our one line per request.
    logging.getLogger("kserve.trace").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").disabled = True
    logging.captureWarnings(True)
    # KServe's own default, on every one of its routes; not ours to mend.
    warnings.filterwarnings("ignore", message="ORJSONResponse is deprecated")
    logging.getLogger("httpx").setLevel(logging.WARNING)
