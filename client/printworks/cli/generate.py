"""`printworks generate`: from a prompt to image files.

Owns the options of a request, one for each field of the API, by the API's name. Invariant: what
would fail on this machine (a folder that is not there) fails before the job is sent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from printworks.cli import request
from printworks.cli.connection import Options, connect, reported
from printworks.cli.delivery import deliver, follow
from printworks.protocol import success_of


def generate(  # noqa: PLR0913 - as many as there are options
    context: typer.Context,
    prompt: Annotated[
        str, typer.Argument(help="Prompt: what the image shows; - reads it from stdin.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="File to write (.png, .jpg, .webp: the format), a folder, or - for stdout.",
            show_default=False,
        ),
    ] = None,
    *,
    model: Annotated[str | None, typer.Option(help="Model; see `printworks models`.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option(
            "--guidance-scale",
            "--guidance",
            help="Guidance scale: how closely to follow the prompt.",
        ),
    ] = None,
    negative_prompt: Annotated[
        str | None,
        typer.Option(
            "--negative-prompt",
            "--negative",
            help="Negative prompt: what the image should not show.",
        ),
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option(
            help="Seed: the same seed gives the same image; 1,2,3: one an image. Default: random."
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", "-n", help="Number of images.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Sampler; see `printworks samplers`.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in px.")] = None,
    aspect_ratio: Annotated[
        str | None,
        typer.Option(
            "--aspect-ratio", "--aspect", help="Aspect ratio W:H, such as 3:2, instead of --size."
        ),
    ] = None,
    width: Annotated[int | None, typer.Option(help="Width in px, with --height.")] = None,
    height: Annotated[int | None, typer.Option(help="Height in px, with --width.")] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(help="LoRA adapter NAME or NAME:WEIGHT; repeat for several."),
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
    control_start: Annotated[
        float | None, typer.Option(help="First step with the ControlNet, as a share, 0 to 1.")
    ] = None,
    control_end: Annotated[
        float | None, typer.Option(help="Last step with the ControlNet, as a share, 0 to 1.")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="png, jpeg or webp; default: as -o is named.")
    ] = None,
    quality: Annotated[int | None, typer.Option(help="Quality of jpeg and webp, 1 to 100.")] = None,
    settings_in_file: Annotated[
        bool, typer.Option(help="Write seed and settings into the image file.")
    ] = True,
    priority: Annotated[str | None, typer.Option(help="high, normal or low.")] = None,
    deadline_s: Annotated[
        float | None, typer.Option(help="Seconds until the job expires if it has not ended.")
    ] = None,
    retention_s: Annotated[
        int | None, typer.Option(help="Seconds that the service keeps the ended job.")
    ] = None,
    reproducibility: Annotated[
        str | None, typer.Option(help="exact or fast; see docs/engine.md of the service.")
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE of your own, returned with the job; repeat for several."),
    ] = None,
    webhook: Annotated[
        str | None, typer.Option(help="URL of a registered webhook, for this job's events.")
    ] = None,
    other: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="FIELD=VALUE of any other field of the API's request; repeatable."
        ),
    ] = None,
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
    request.check_writable(out)
    asked = {
        "model": model,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "negative_prompt": negative_prompt,
        "seed": request.seed_of(seed),
        "n": n,
        "sampler": sampler,
        "size": size,
        "aspect_ratio": aspect_ratio,
        "width": width,
        "height": height,
        "loras": request.loras_of(lora or ()),
        "strength": strength,
        "resize": resize,
        "output": request.output_of(out, form, quality, metadata=settings_in_file),
        "priority": priority,
        "deadline_s": deadline_s,
        "retention_s": retention_s,
        "reproducibility": reproducibility,
        "metadata": request.values_of("--metadata", metadata or ()) or None,
        "webhook": {"url": webhook} if webhook else None,
        **request.values_of("--set", other or ()),
    }
    with reported(options), connect(options) as client:
        asked |= {"image": request.sent(client, image), "mask": request.sent(client, mask)}
        weights = {"scale": control_scale, "start": control_start, "end": control_end}
        asked["control"] = request.control_of(control, request.sent(client, control_image), weights)
        words, job_options = request.prompt_of(prompt), request.options_of(asked)
        if dry_run:
            print(client.quote(words, **job_options).model_dump_json(indent=2))
            return
        job = client.submit(words, **job_options)
        if no_wait:
            print(job.model_dump_json() if options.as_json else job.id)
            return
        deliver(client, success_of(follow(client, job, timeout)), out, options)
