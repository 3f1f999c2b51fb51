"""`python -m models.demo.recipe`: fit, decoder, judge, train, evaluate.

The state (cache, checkpoints, logs, grids) lives outside the repository; `train` also keeps the
diffusers folder up to date. A command that finds its state goes on from it.
"""

import argparse
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.utils import logging as diffusers_logging

from models.demo.recipe import dataset, scenes
from models.demo.recipe.decoder import save_vae, train_decoder
from models.demo.recipe.denoiser import Training
from models.demo.recipe.export import build_pipeline, export
from models.demo.recipe.judge import train_judge
from models.demo.recipe.network import build_vae
from models.demo.recipe.preview import PROMPTS, draw, grid
from models.demo.recipe.vae import LinearEncoder, fitted_vae

WEIGHTS = Path(__file__).parents[1]
FIT_PICTURES = 1000
FIRST_SHARDS = 8  # enough variety to begin with; the others come while training runs


def main() -> None:
    options = _parser().parse_args()
    options.state.mkdir(parents=True, exist_ok=True)
    diffusers_logging.set_verbosity_error()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that children go too
    # One OpenMP thread: parallelism comes from lanes (lanes.py says why).
    torch.set_num_threads(1)
    {"fit": _fit, "decoder": _decoder, "judge": _judge, "train": _train}[options.command](options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models.demo.recipe", description=__doc__)
    parser.add_argument("command", choices=("fit", "decoder", "judge", "train"))
    parser.add_argument("--state", type=Path, default=Path.home() / ".cache/printworks-demo")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--lanes", type=int, default=None, help="replicas; default: CPUs, or 1")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--shards", type=int, default=120, help="of 2048 scenes each")
    parser.add_argument("--snapshot-minutes", type=float, default=10)
    return parser


def _fit(options: argparse.Namespace) -> None:
    rng = random.Random("fit")
    drawn = [scenes.draw_scene(rng, held_out=False) for _ in range(FIT_PICTURES)]
    torch.manual_seed(0)
    save_vae(fitted_vae(np.stack([scenes.render(scene, rng) for scene in drawn])), options.state)


def _vae(options: argparse.Namespace) -> AutoencoderTiny:
    if not (options.state / "vae.pt").exists():
        _fit(options)
    vae = build_vae()
    vae.load_state_dict(torch.load(options.state / "vae.pt"))
    return vae.eval()


def _decoder(options: argparse.Namespace) -> None:
    train_decoder(_vae(options), options.state, minutes=options.minutes, device=options.device)


def _judge(options: argparse.Namespace) -> None:
    train_judge(minutes=options.minutes, device=options.device)


def _train(options: argparse.Namespace) -> None:
    lanes = options.lanes or (1 if options.device != "cpu" else os.cpu_count() or 1)
    cache = dataset.Cache(options.state / "latents")
    encoder = LinearEncoder(_vae(options))
    processes = max(1, (os.cpu_count() or 2) // 2)
    dataset.fill_in_background(cache.folder, encoder, shards=options.shards, processes=processes)
    cache.wait(min(FIRST_SHARDS, options.shards))
    training = Training(
        cache, options.state, device=options.device, lanes=lanes, batch=options.batch
    )
    resumed = training.resume()
    print(f"from {training.pictures_seen} pictures" if resumed else "from nothing", flush=True)
    training.run(
        options.minutes,
        every_minutes=options.snapshot_minutes,
        on_snapshot=lambda now: _snapshot(now, options),
    )


def _snapshot(training: Training, options: argparse.Namespace) -> None:
    """Draw the preview grid with the averaged weights, and put them into the weights folder."""
    model = training.averaged()
    pipeline = build_pipeline(_vae(options), model.unet, model.text_encoder, model.tokenizer)
    sheet = grid(draw(pipeline, PROMPTS))
    sheet.save(options.state / f"grid-{training.pictures_seen:08d}.png")
    export(pipeline, options.weights)


if __name__ == "__main__":
    main()
