"""Resolution of a request to a spec: defaults filled in, every value checked against the model.

Owns the rules of size, seed and limits. Never alters a value in silence: an illegal value is
refused with the nearest legal ones; defaults stand in the spec, which the record shows as
`resolved`.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable

from jobs.contract.input_images import size_of
from jobs.contract.model_file import Catalogue, Limits, ModelEntry
from jobs.contract.resolve_control import check_control, check_control_size
from jobs.contract.resolve_inputs import check_inputs, resolve_start_image
from jobs.contract.resolve_loras import check_loras
from jobs.contract.samplers import SAMPLERS
from jobs.contract.spec import MAX_SEED, PASSED_ON, JobRequest, JobSpec
from jobs.errors import InvalidRequest, Problem

MAX_METADATA_BYTES = 1024
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
_RATIO = re.compile(r"(\d{1,4}(?:\.\d{1,3})?):(\d{1,4}(?:\.\d{1,3})?)")


def resolve(
    request: JobRequest,
    catalogue: Catalogue,
    *,
    draw_seed: Callable[[], int],
    default_retention_s: int,
) -> JobSpec:
    """Return the canonical spec of `request`. Raises InvalidRequest with every problem at once."""
    entry = _model(request, catalogue)
    problems: list[Problem] = []
    start = resolve_start_image(request, catalogue, entry, problems)
    control = check_control(request, catalogue, entry, problems)
    given = (
        ("/image", start.image) if start.image else ("/control/image", control and control.image)
    )
    width, height = _size(request, entry, problems, picture=given)
    seeds = _seeds(request, entry, draw_seed, problems)
    steps = entry.defaults.steps if request.steps is None else request.steps
    guidance = entry.defaults.guidance_scale
    if request.guidance_scale is not None:
        guidance = request.guidance_scale
    sampler = request.sampler or entry.defaults.sampler
    _within("/steps", steps, 1, entry.limits.max_steps, problems)
    _within("/guidance_scale", guidance, 0, entry.limits.max_guidance, problems)
    _check_texts(request, entry, problems)
    _check_sampler(sampler, steps, entry, problems)
    loras = check_loras(request, catalogue, entry, problems)
    _check_output(request, problems)
    check_inputs(start, (width, height), steps, sampler, entry, problems)
    check_control_size(control, (width, height), request, problems)
    if problems:
        raise InvalidRequest(problems)
    return JobSpec(
        **{name: getattr(request, name) for name in PASSED_ON},
        model=entry.id,
        width=width,
        height=height,
        steps=steps,
        guidance_scale=float(guidance),
        seeds=tuple(seeds),
        sampler=sampler,
        loras=loras,
        control=control,
        image=start.image,
        mask=start.mask,
        strength=start.strength,
        retention_s=request.retention_s or default_retention_s,
    )


def _model(request: JobRequest, catalogue: Catalogue) -> ModelEntry:
    if request.model is None:
        return catalogue.default
    entry = catalogue.get(request.model)
    if entry is None:
        ids = [m.id for m in catalogue.models]
        near = difflib.get_close_matches(request.model, ids, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InvalidRequest(
            [Problem("/model", "unknown_model", f"no such model; {hint}models: {', '.join(ids)}")]
        )
    return entry


def _size(
    request: JobRequest,
    entry: ModelEntry,
    problems: list[Problem],
    *,
    picture: tuple[str, str | None],
) -> tuple[int, int]:
    """Return (width, height) in px, from the one of the three ways that the request used.

    A request that used none takes the size of `picture` (pointer and ID), if there is one.
    """
    ways = {
        "/width": request.width is not None or request.height is not None,
        "/size": request.size is not None,
        "/aspect_ratio": request.aspect_ratio is not None,
    }
    used = [pointer for pointer, is_used in ways.items() if is_used]
    default = (entry.defaults.width, entry.defaults.height)
    if len(used) > 1:
        problems.append(
            Problem(used[1], "conflict", "give only one: width and height, size, or aspect_ratio")
        )
        return default
    if not used:
        pointer, an_id = picture
        return _own_size(pointer, an_id, request, entry, problems) if an_id else default
    if used == ["/aspect_ratio"]:
        return _of_ratio(request.aspect_ratio or "", entry, problems)
    return _legal(used[0], _asked(request, used[0], problems) or default, entry.limits, problems)


def _own_size(
    pointer: str, an_id: str, request: JobRequest, entry: ModelEntry, problems: list[Problem]
) -> tuple[int, int]:
    """Return the input image's size, or the nearest legal size where a resize is allowed."""
    start, limits = size_of(an_id), entry.limits
    near = (nearest_side(start[0], limits), nearest_side(start[1], limits))
    if near == start and start[0] * start[1] <= limits.max_pixels:
        return start
    ratio = start[0] / start[1]
    best = min(_shaped(ratio, limits), key=lambda size: _distance(size, ratio, start))
    if request.resize is None:
        problems.append(
            Problem(
                pointer,
                "illegal_size",
                f"the image is {start[0]}x{start[1]}, no legal size of this model; the nearest is "
                f'{best[0]}x{best[1]}: send the image in that size, or set "resize" to "cover"',
            )
        )
    return best


def _asked(request: JobRequest, way: str, problems: list[Problem]) -> tuple[int, int] | None:
    if way == "/size":
        match = _SIZE.fullmatch(request.size or "")
        if match:
            return int(match[1]), int(match[2])
        problems.append(
            Problem("/size", "invalid_size", 'write it as "WIDTHxHEIGHT", such as "128x128"')
        )
        return None
    if request.width is None or request.height is None:
        missing = "/width" if request.width is None else "/height"
        problems.append(Problem(missing, "missing", "width and height go together"))
        return None
    return request.width, request.height


def _legal(
    pointer: str, size: tuple[int, int], limits: Limits, problems: list[Problem]
) -> tuple[int, int]:
    near = (nearest_side(size[0], limits), nearest_side(size[1], limits))
    if near != size:
        where = pointer if pointer == "/size" else ("/width" if near[0] != size[0] else "/height")
        problems.append(
            Problem(
                where,
                "illegal_size",
                f"sides are multiples of {limits.side_multiple} px from {limits.min_side} to "
                f"{limits.max_side}; nearest legal: {near[0]}x{near[1]}",
            )
        )
    elif size[0] * size[1] > limits.max_pixels:
        problems.append(
            Problem(pointer, "too_many_pixels", f"at most {limits.max_pixels} pixels in one image")
        )
    return size


def nearest_side(side: int, limits: Limits) -> int:
    """Return the legal side nearest to `side`, both in px."""
    step = limits.side_multiple
    low, high = math.ceil(limits.min_side / step), limits.max_side // step
    return step * min(max(round(side / step), low), high)


def _of_ratio(ratio: str, entry: ModelEntry, problems: list[Problem]) -> tuple[int, int]:
    """Return the legal size nearest in shape to `ratio`, of about the model's default area."""
    match = _RATIO.fullmatch(ratio)
    default = (entry.defaults.width, entry.defaults.height)
    if not match or not float(match[1]) or not float(match[2]):
        problems.append(
            Problem("/aspect_ratio", "invalid_ratio", 'write it as "W:H", such as "3:2"')
        )
        return default
    wanted = float(match[1]) / float(match[2])
    best = min(_shaped(wanted, entry.limits), key=lambda size: _distance(size, wanted, default))
    if abs(math.log(best[0] / best[1] / wanted)) > math.log(1.25):
        problems.append(
            Problem("/aspect_ratio", "illegal_ratio", f"nearest legal size: {best[0]}x{best[1]}")
        )
    return best


def _shaped(ratio: float, limits: Limits) -> list[tuple[int, int]]:
    """Return for each legal width the legal height that makes the shape nearest to `ratio`."""
    step = limits.side_multiple
    widths = range(step * math.ceil(limits.min_side / step), limits.max_side + 1, step)
    sizes = [(w, nearest_side(round(w / ratio), limits)) for w in widths]
    return [(w, h) for w, h in sizes if w * h <= limits.max_pixels]


def _distance(size: tuple[int, int], ratio: float, default: tuple[int, int]) -> float:
    """Weigh shape four times as much as area: a client that writes 3:2 wants the shape."""
    shape = abs(math.log(size[0] / size[1] / ratio))
    area = abs(math.log(size[0] * size[1] / (default[0] * default[1])))
    return 4 * shape + area


def _seeds(
    request: JobRequest, entry: ModelEntry, draw: Callable[[], int], problems: list[Problem]
) -> list[int]:
    """Return one seed an image: seed + k, or the given list, or random seeds."""
    listed = request.seed if isinstance(request.seed, list) else None
    n = request.n if request.n is not None else len(listed or [0])
    if not 1 <= n <= entry.limits.max_n:
        _within("/n", n, 1, entry.limits.max_n, problems)
        return [0]
    if listed is not None:
        if len(listed) != n:
            problems.append(
                Problem("/seed", "wrong_length", f"a list needs one seed for each image: {n}")
            )
        return listed
    first = request.seed if isinstance(request.seed, int) else draw() % (MAX_SEED + 2 - n)
    if first + n - 1 > MAX_SEED:
        problems.append(Problem("/seed", "out_of_range", f"seed + n - 1 is at most {MAX_SEED}"))
        return [0]
    return [first + k for k in range(n)]


def _within(pointer: str, value: float, low: float, high: float, problems: list[Problem]) -> None:
    if not low <= value <= high:
        problems.append(
            Problem(pointer, "out_of_range", f"from {low:g} to {high:g} for this model")
        )


def _check_texts(request: JobRequest, entry: ModelEntry, problems: list[Problem]) -> None:
    longest = entry.limits.max_prompt_chars
    texts = {"/prompt": request.prompt, "/negative_prompt": request.negative_prompt}
    problems.extend(
        Problem(pointer, "too_long", f"at most {longest} characters")
        for pointer, text in texts.items()
        if len(text) > longest
    )
    if not request.prompt.strip():
        problems.append(Problem("/prompt", "empty", "describe the image in the prompt"))
    if len(json.dumps(request.metadata).encode()) > MAX_METADATA_BYTES:
        problems.append(
            Problem("/metadata", "too_large", f"at most {MAX_METADATA_BYTES} bytes of JSON")
        )


def _check_sampler(sampler: str, steps: int, entry: ModelEntry, problems: list[Problem]) -> None:
    legal = entry.legal_samplers
    if sampler not in legal:
        near = difflib.get_close_matches(sampler, legal, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        problems.append(Problem("/sampler", "unknown_sampler", f"{hint}legal: {', '.join(legal)}"))
    elif SAMPLERS[sampler].max_steps < steps <= entry.limits.max_steps:
        most = SAMPLERS[sampler].max_steps
        problems.append(Problem("/steps", "out_of_range", f"from 1 to {most} with {sampler}"))


def _check_output(request: JobRequest, problems: list[Problem]) -> None:
    if request.output.format == "png" and request.output.quality is not None:
        problems.append(
            Problem("/output/quality", "conflict", "PNG is lossless: leave quality out")
        )
