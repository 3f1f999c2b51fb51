"""`printworks generate`: from a prompt to image files.

Owns the names of files and the output for a finished job. Invariants: Ctrl-C cancels the job;
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
    prompt: Annotated[str, typer.Argument(help="Prompt: what the image shows.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="File to write (.png, .jpg, .webp: the format), or - for stdout.",
            show_default=False,
        ),
    ] = None,
    *,
    model: Annotated[str | None, typer.Option(help="Model; see `printworks models`.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale: how closely to follow the prompt.")
    ] = None,
    negative: Annotated[
        str | None, typer.Option(help="Negative prompt: what the image should not show.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed: the same seed gives the same image. Default: random.")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="Sampler; see `printworks samplers`.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in px.")] = None,
    aspect: Annotated[
        str | None, typer.Option(help="Aspect ratio W:H, such as 3:2, instead of --size.")
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(help="Input image (.png, .jpg, .webp): image-to-image; with --mask: inpaint."),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Mask: inpaint the input image where the mask is white.")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="Image strength, 0 to 1: how much of the input image is changed."),
    ] = None,
    resize: Annotated[
        str | None, typer.Option(help="Fit an input image of another size: cover or stretch.")
    ] = None,
    control: Annotated[str | None, typer.Option(help="Name of a ControlNet of the model.")] = None,
    control_image: Annotated[
        Path | None, typer.Option(help="ControlNet input image: edges, depth, a pose.")
    ] = None,
    control_scale: Annotated[
        float | None, typer.Option(help="ControlNet weight; 0: not applied.")
    ] = None,
    n: Annotated[int | None, typer.Option("--n", "-n", help="Number of images.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait for the images.")] = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Print the job's ID without waiting for the images.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Validate the request and print its cost; no job.")
    ] = False,
) -> None:
    """Generate images from PROMPT; prints the names of the files."""
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
    """Wait for the end of a job, and display progress. Ctrl-C cancels the job."""
    try:
        with Display() as display:
            display.show(job)
            return _followed(client, job, timeout_s, display)
    except KeyboardInterrupt:
        client.cancel(job.id)
        print(f"printworks: interrupted; job {job.id} is canceled", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def _followed(client: Client, job: Job, timeout_s: float | None, display: Display) -> Job:
    """Return the job at its end, displayed as its events arrive."""
    try:
        for event in client.events(job.id, timeout_s=timeout_s):
            job = event.onto(job)
            display.show(job)
    except Busy:  # too many event streams: polling still works
        return client.wait(job.id, timeout_s=timeout_s, on_look=display.show)
    return job if job.final else client.get(job.id)  # deleted: Gone


def deliver(client: Client, job: Job, out: Path | None, options: Options) -> None:
    """Write the images; file names go to stdout, seeds to stderr."""
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
    """Return the file name of one image: `out` (numbered if there are several), or the job's ID."""
    out = out or Path(job.id).with_suffix(SUFFIXES.get(image.content_type, ".bin"))
    return out if len(job.images) == 1 else out.with_stem(f"{out.stem}-{image.index}")


def _sent(client: Client, picture: Path | None) -> dict[str, str] | None:
    """Upload a file of this machine as an input image; return a reference to the input image."""
    if picture is None:
        return None
    try:
        return {"input": client.upload(picture).id}
    except OSError as error:
        raise typer.BadParameter(f"{picture}: {error.strerror}") from None


def _control(
    client: Client, name: str | None, picture: Path | None, scale: float | None
) -> dict[str, Any] | None:
    """Return the ControlNet options. Raises BadParameter unless a name comes with its image."""
    if name is None and picture is None and scale is None:
        return None
    if name is None or picture is None:
        raise typer.BadParameter("--control and --control-image go together: give both")
    weight = {} if scale is None else {"scale": scale}
    return {"name": name, "image": _sent(client, picture), **weight}


def _output(out: Path | None) -> dict[str, Format] | None:
    """Return the file format that the file's name asks for; None: the service's default."""
    if out is None or out == STDOUT:
        return None
    suffix = out.suffix.lower()
    if suffix not in FORMATS:
        raise typer.BadParameter(f"{out}: the file name must end in {', '.join(FORMATS)}")
    return {"format": FORMATS[suffix]}
