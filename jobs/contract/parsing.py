"""Strict parser of requests, with problems in Printworks' own words.

Owns the way from bytes to `JobRequest`, and from pydantic's errors to `Problem`s. Invariant: no
answer echoes the input.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

from pydantic import BaseModel, ValidationError

from jobs.contract.spec import JobRequest
from jobs.errors import InvalidRequest, Problem


def parse_request(body: bytes | str | dict[str, Any]) -> JobRequest:
    """Parse a request strictly. Raises InvalidRequest with every problem, never echoing input."""
    try:
        if isinstance(body, dict):
            return JobRequest.model_validate(body)
        return JobRequest.model_validate_json(body)
    except ValidationError as error:
        raise InvalidRequest(problems_of(error, JobRequest)) from None
    except (UnicodeError, RecursionError, ValueError):
        # RecursionError: JSON nested a thousand deep; UnicodeError: a lone surrogate in a str
        raise InvalidRequest([Problem("", "invalid_json", "the body is not valid JSON")]) from None


# pydantic adds the tried member of a union to the location; no field of the request has that name
_UNION_MEMBER = re.compile(r"constrained-\w+|list\[.*\]")
MAX_PROBLEMS = 20  # a body can break in thousands of places; the answer stays short
# pydantic can only list all of its errors, and 32,000 took 40 ms of a body of 64 KiB
MAX_LISTED = 1_000


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Convert a pydantic error to problems: pointer, stable code, a sentence; no input echoed."""
    if error.error_count() > MAX_LISTED:
        detail = f"the body has {error.error_count()} errors, too many to list"
        return [Problem("", "too_many_problems", detail)]
    known = list(model.model_fields)
    problems: list[Problem] = []
    items = error.errors(include_url=False, include_context=False, include_input=False)
    for item in items[:MAX_PROBLEMS]:  # a hint for each of 4000 unknown fields took 0.6 s
        parts = [part for part in item["loc"] if not _UNION_MEMBER.fullmatch(str(part))]
        pointer = "".join(f"/{_escape(part)}" for part in parts)[:200]
        if item["type"] == "extra_forbidden":
            problems.append(
                Problem(pointer, "unknown_field", _unknown(str(item["loc"][-1]), known))
            )
        elif item["type"] == "json_invalid":
            problems.append(Problem("", "invalid_json", item["msg"][:200]))
        else:
            problems.append(Problem(pointer, item["type"], item["msg"][:300]))
    return problems


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name[:100], known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known fields: {', '.join(known)}"
    return f"unknown field; {hint}"


def _escape(part: str | int) -> str:
    """Escape one reference token of a JSON pointer (RFC 6901 section 3)."""
    text = str(part).replace("~", "~0").replace("/", "~1")
    return text.encode("utf-8", "replace").decode()
