"""Checks of a request's control image against the ControlNets of its model.

Owns the rules of `control`. Pure: the control image is an ID by now, and an ID gives the size.
Invariant: a control image is resized only if the request says how.
"""

from __future__ import annotations

import difflib

from jobs.contract.input_images import size_of
from jobs.contract.model_file import Catalogue, ModelEntry
from jobs.contract.request_parts import Control
from jobs.contract.spec import JobRequest
from jobs.errors import Problem


def check_control(
    request: JobRequest, catalogue: Catalogue, entry: ModelEntry, problems: list[Problem]
) -> Control | None:
    """Return the control of a request whose images are stored; appends faults to `problems`."""
    asked = request.control
    if asked is None:
        return None
    an_id = asked.image.input
    assert an_id, "pictures are taken in before a request is resolved"
    if asked.name not in entry.controls:
        problems.append(_unknown(asked.name, catalogue, entry))
        return None
    if asked.start >= asked.end:
        problems.append(Problem("/control/start", "out_of_range", "start must be below end"))
    return Control(
        name=asked.name, image=an_id, scale=asked.scale, start=asked.start, end=asked.end
    )


def check_control_size(
    control: Control | None,
    size: tuple[int, int],
    request: JobRequest,
    problems: list[Problem],
) -> None:
    """Append a problem if the control image is not of the job's size and may not be resized."""
    refused = any(problem.pointer.startswith("/control") for problem in problems)
    if control is None or request.resize is not None or refused or size_of(control.image) == size:
        return
    picture, job = ("{}x{}".format(*sides) for sides in (size_of(control.image), size))
    detail = f"the control image is {picture} and the job {job}: leave the size out, or set "
    fits = '"resize" to "cover" or "stretch"'
    problems.append(Problem("/control/image", "size_differs", detail + fits))


def _unknown(name: str, catalogue: Catalogue, entry: ModelEntry) -> Problem:
    if not entry.controls:
        able = [m.id for m in catalogue.models if m.controls]
        others = f"these do: {', '.join(able)}" if able else "no model here does"
        return Problem("/control", "not_taken", f"{entry.id} takes no control; {others}")
    known = list(entry.controls)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    detail = f"no such ControlNet; {hint}this model has: {', '.join(known)}"
    return Problem("/control/name", "unknown_control", detail)
