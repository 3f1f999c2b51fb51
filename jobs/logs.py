"""Logs: one line of JSON an event on stderr, without prompts.

Owns the format, for every role. What is logged is an event's name and closed `extra` fields: job
IDs, reasons, counts; never a body, a prompt or a key. A role may stamp each line with more (the
API does, with its request's ID).
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

_ENCODER = json.JSONEncoder(default=str)
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}

Stamp = Callable[[], Mapping[str, str]]  # fields for the line that is being written


class JsonLines(logging.Formatter):
    """A formatter of log records as one line of JSON each."""

    def __init__(self, stamp: Stamp = dict) -> None:
        super().__init__()
        self._stamp = stamp

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
        }
        line |= self._stamp()
        line |= {k: v for k, v in vars(record).items() if k not in _OWN}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return _ENCODER.encode(line)


def set_up(level: str, *, stamp: Stamp = dict) -> None:
    """Send everything to stderr in this format; RQ's own logger speaks of jobs by ID only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(stamp))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.getLogger("rq.worker").setLevel(max(logging.WARNING, root.level))
