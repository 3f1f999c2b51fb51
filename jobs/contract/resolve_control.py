"""The picture that steers a job's layout, held against the ControlNets of its model.

Owns the rules of `control`. Pure: the picture is an ID by now, and an ID says the size.
Invariant: a control picture is resized only if the request says how.
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
    """The control of a request whose data have become inputs; what is wrong goes to `problems`."""
    asked = request.control
    if asked is None:
        return None
    an_id = asked.image.input
    assert an_id, "pictures are taken in before a request is resolved"
    if asked.name not in entry.controls:
        problems.append(_unknown(asked.name, catalogue, entry))
        return None
    if asked.start >= asked.end:
        problems.append(Problem("/control/start", "out_of_range", "start is below end"))
    return Control(
        name=asked.name, image=an_id, scale=asked.scale, start=asked.start, end=asked.end
    )


def check_control_size(
    control: Control | None,
    size: tuple[int, int],
    request: JobRequest,
    problems: list[Problem],
) -> None:
    """What depends on the job's size as well."""
    told = any(problem.pointer.startswith("/control") for problem in problems)
    if control is None or request.resize is not None or told or size_of(control.image) == size:
        return
    picture, job = ("{}x{}".format(*sides) for sides in (size_of(control.image), size))
    detail = f'it is {picture} and the job {job}: leave the size out, or say "resize": "cover"'
    problems.append(Problem("/control/image", "size_differs", f'{detail} or "stretch"'))


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
