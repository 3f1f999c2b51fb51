"""`printworks generate`: from a prompt to files.

Owns the names of files and what is said of a finished job. Invariants: Ctrl-C cancels the job;
an existing file is only replaced when its name was given with -o.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from printworks.cli.connection import Options, connect, reported
from printworks.cli.display import Display
from printworks.client import Client
from printworks.errors import Busy
from printworks.protocol import success_of
from printworks.types import Image, Job, JobOptions

Format = Literal["png", "jpeg", "webp"]
FORMATS: dict[str, Format] = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
}
SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
STDOUT = Path("-")
INTERRUPTED = 130


def generate(  # noqa: PLR0913 - as many as there are options
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What the picture shows.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="File to write (.png, .jpg, .webp), or - for stdout.",
            show_default=False,
        ),
    ] = None,
    *,
    model: Annotated[str | None, typer.Option(help="See `printworks models`.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How closely to follow the prompt.")
    ] = None,
    negative: Annotated[str | None, typer.Option(help="What it should not show.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same picture.")] = None,
    sampler: Annotated[str | None, typer.Option(help="See `printworks samplers`.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in px.")] = None,
    aspect: Annotated[str | None, typer.Option(help="W:H, such as 3:2, instead of a size.")] = None,
    image: Annotated[
        Path | None, typer.Option(help="Begin with this picture (.png, .jpg, .webp).")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Repaint it where this is white.")] = None,
    strength: Annotated[
        float | None, typer.Option(help="How much of the image is let go of, 0 to 1.")
    ] = None,
    resize: Annotated[
        str | None, typer.Option(help="An image of another size: cover or stretch.")
    ] = None,
    control: Annotated[
        str | None, typer.Option(help="A ControlNet: see `printworks models`.")
    ] = None,
    control_image: Annotated[
        Path | None, typer.Option(help="The picture that it follows: edges, depth, a pose.")
    ] = None,
    control_scale: Annotated[
        float | None, typer.Option(help="How much it is heeded; 0: not at all.")
    ] = None,
    n: Annotated[int | None, typer.Option("--n", "-n", help="How many pictures.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait for the pictures.")] = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Print the job's ID and leave.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and price it only.")] = False,
) -> None:
    """Make pictures from PROMPT; prints the names of the files."""
    options: Options = context.obj
    asked = {
        "model": model,
        "steps": steps,
        "guidance_scale": guidance,
        "negative_prompt": negative,
        "seed": seed,
        "sampler": sampler,
        "size": size,
        "aspect_ratio": aspect,
        "strength": strength,
        "resize": resize,
        "n": n,
        "output": _output(out),
    }
    with reported(options), connect(options) as client:
        asked |= {"image": _sent(client, image), "mask": _sent(client, mask)}
        asked["control"] = _control(client, control, control_image, control_scale)
        job_options: JobOptions = {k: v for k, v in asked.items() if v is not None}  # type: ignore[assignment]
        if dry_run:
            print(client.quote(prompt, **job_options).model_dump_json(indent=2))
            return
        job = client.submit(prompt, **job_options)
        if no_wait:
            print(job.model_dump_json() if options.as_json else job.id)
            return
        job = success_of(follow(client, job, timeout))
        deliver(client, job, out, options)


def follow(client: Client, job: Job, timeout_s: float | None) -> Job:
    """Wait for the end, and show it. Ctrl-C cancels the job: nobody wants it any more."""
    try:
        with Display() as display:
            display.show(job)
            return _followed(client, job, timeout_s, display)
    except KeyboardInterrupt:
        client.cancel(job.id)
        print(f"printworks: interrupted; job {job.id} is canceled", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def _followed(client: Client, job: Job, timeout_s: float | None, display: Display) -> Job:
    """The job at its end, shown as its events come."""
    try:
        for event in client.events(job.id, timeout_s=timeout_s):
            job = event.onto(job)
            display.show(job)
    except Busy:  # too many streams: looking again and again still works
        return client.wait(job.id, timeout_s=timeout_s, on_look=display.show)
    return job if job.final else client.get(job.id)  # deleted: Gone


def deliver(client: Client, job: Job, out: Path | None, options: Options) -> None:
    """Write the pictures; their names on stdout, the seeds on stderr."""
    if out == STDOUT:
        sys.stdout.buffer.write(client.image(job.images[0]))
        return
    files = [client.save(image, name_of(job, image, out)) for image in job.images]
    if options.as_json:
        print(json.dumps(job.model_dump(mode="json") | {"files": [str(file) for file in files]}))
        return
    for file, image in zip(files, job.images, strict=True):
        print(f"seed {image.seed}, {image.width}x{image.height}", file=sys.stderr)
        print(file)


def name_of(job: Job, image: Image, out: Path | None) -> Path:
    """The file of one image: `out`, numbered where there are several, or the job's ID."""
    out = out or Path(job.id).with_suffix(SUFFIXES.get(image.content_type, ".bin"))
    return out if len(job.images) == 1 else out.with_stem(f"{out.stem}-{image.index}")


def _sent(client: Client, picture: Path | None) -> dict[str, str] | None:
    """A picture of this machine as an input of the service."""
    if picture is None:
        return None
    try:
        return {"input": client.upload(picture).id}
    except OSError as error:
        raise typer.BadParameter(f"{picture}: {error.strerror}") from None


def _control(
    client: Client, name: str | None, picture: Path | None, scale: float | None
) -> dict[str, Any] | None:
    """What steers the layout: a ControlNet and its picture go together."""
    if name is None and picture is None and scale is None:
        return None
    if name is None or picture is None:
        raise typer.BadParameter("--control and --control-image go together")
    said = {} if scale is None else {"scale": scale}
    return {"name": name, "image": _sent(client, picture), **said}


def _output(out: Path | None) -> dict[str, Format] | None:
    """The file format that the file's name asks for; the service's own where it asks for none."""
    if out is None or out == STDOUT:
        return None
    suffix = out.suffix.lower()
    if suffix not in FORMATS:
        raise typer.BadParameter(f"{out}: a file name ends in {', '.join(FORMATS)}")
    return {"format": FORMATS[suffix]}
