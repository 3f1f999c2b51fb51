"""`printworks grid`: one prompt, with one or two settings varied, as one labelled picture.

Owns the drawing of the grid. Invariant: all cells have the same seed unless the seed is what is
varied, so that nothing but the settings differs.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from printworks.cli import request
from printworks.cli.connection import Options, connect, reported
from printworks.cli.display import GroupDisplay
from printworks.client import Client
from printworks.errors import JobNotSucceeded
from printworks.types import Job, JobRequest

MOST_CELLS = 100  # jobs of one group
PAPER, INK, PAD, LINE = "white", "black", 8, 22  # px


def grid(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="Prompt of all cells.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="File for the grid (.png, .jpg, .webp).")
    ],
    x: Annotated[
        str,
        typer.Option("-x", "--x", help="Columns: FIELD=VALUE,VALUE,... such as steps=10,20,40."),
    ],
    y: Annotated[str | None, typer.Option("-y", "--y", help="Rows, likewise.")] = None,
    other: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=VALUE of the request, for all cells; repeatable."),
    ] = None,
) -> None:
    """Vary one or two settings of a prompt: sampler, steps, guidance_scale, seed, size ..."""
    options: Options = context.obj
    request.check_writable(out)
    columns, rows = axis_of("--x", x), axis_of("--y", y) if y else [(None, None)]
    if len(columns) * len(rows) > MOST_CELLS:
        raise typer.BadParameter(f"at most {MOST_CELLS} cells")
    shared = {"seed": random.randrange(2**32)} | request.values_of("--set", other or ())  # noqa: S311
    cells: list[JobRequest] = [_cell(prompt, shared, c, r) for r, c in product(rows, columns)]
    with reported(options), connect(options) as client:
        jobs = _made(client, cells)
        pictures = [Pillow.open(io.BytesIO(client.image(job.images[0]))) for job in jobs]
    drawn(pictures, [_label(c) for c in columns], [_label(r) for r in rows]).save(out)
    print(out)


def axis_of(option: str, text: str) -> list[tuple[str | None, Any]]:
    """Return (field, value) for each value of `FIELD=VALUE,VALUE,...`."""
    field, equals, values = text.partition("=")
    if not equals or not values:
        raise typer.BadParameter(f"{option} {text}: FIELD=VALUE,VALUE,...")
    return [(field, request.value_of(value)) for value in values.split(",")]


def _cell(
    prompt: str,
    shared: dict[str, Any],
    column: tuple[str | None, Any],
    row: tuple[str | None, Any],
) -> Any:
    varied = {field: value for field, value in (column, row) if field is not None}
    return {"prompt": prompt, **shared, **varied, "n": 1}


def _made(client: Client, cells: Sequence[JobRequest]) -> list[Job]:
    """Return the jobs of all cells, each succeeded. Raises JobNotSucceeded."""
    group = client.submit_group(cells)
    try:
        with GroupDisplay(len(cells)) as display:
            ended = [client.wait(job.id, on_look=display.show) for job in group.jobs]
    except KeyboardInterrupt:
        client.cancel_group(group.id)
        raise typer.Exit(130) from None
    for job in ended:
        if job.status != "succeeded":
            raise JobNotSucceeded(job)
    return ended


def _label(axis: tuple[str | None, Any]) -> str:
    field, value = axis
    return "" if field is None else f"{field} {value}"


def drawn(
    pictures: Sequence[Pillow.Image], columns: Sequence[str], rows: Sequence[str]
) -> Pillow.Image:
    """Return the grid: `pictures` row by row, with the labels of columns above and rows beside."""
    font = ImageFont.load_default(size=14)
    wide = max(p.width for p in pictures)
    high = max(p.height for p in pictures)
    beside = int(max(font.getlength(label) for label in rows)) + (PAD if any(rows) else 0)
    wide = max(wide, int(max(font.getlength(label) for label in columns)))
    size = (
        beside + len(columns) * (wide + PAD) + PAD,
        LINE + len(rows) * (high + PAD) + PAD,
    )
    sheet = Pillow.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for index, label in enumerate(columns):
        pen.text((beside + PAD + index * (wide + PAD), 4), label, fill=INK, font=font)
    for index, label in enumerate(rows):
        pen.text((PAD // 2, LINE + PAD + index * (high + PAD)), label, fill=INK, font=font)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, len(columns))
        at = (beside + PAD + column * (wide + PAD), LINE + PAD + row * (high + PAD))
        sheet.paste(picture.convert("RGB"), at)
    return sheet
