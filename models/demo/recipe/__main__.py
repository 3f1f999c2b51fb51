"""`python -m models.demo.recipe COMMAND`, each with a time budget and a device.

`decoder` and `train` make the weights, `judge` the classifier, `evaluate` the figures and the card.
The state (cache, checkpoints, logs, grids) lives outside the repository; `train` also keeps the
diffusers folder up to date. A command that finds its state goes on from it, and without a state
from the committed weights.
"""

import argparse
import json
import os
import random
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.utils import logging as diffusers_logging

from models.demo.recipe import dataset, scenes
from models.demo.recipe.card import EVALUATION, WEIGHTS, committed_card
from models.demo.recipe.decoder import save_vae, train_decoder
from models.demo.recipe.denoiser import Training
from models.demo.recipe.evaluate import about, evaluate
from models.demo.recipe.export import build_pipeline, export, load_pipeline
from models.demo.recipe.judge import train_judge
from models.demo.recipe.network import build_vae
from models.demo.recipe.preview import PROMPTS, draw, grid
from models.demo.recipe.vae import LinearEncoder, fitted_vae

FIT_PICTURES = 1000
FIRST_SHARDS = 8  # enough variety to begin with; the others come while training runs


def main() -> None:
    options = _parser().parse_args()
    _needs_plots(options.command)
    options.state.mkdir(parents=True, exist_ok=True)
    diffusers_logging.set_verbosity_error()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that children go too
    # One OpenMP thread: parallelism comes from lanes (lanes.py says why).
    torch.set_num_threads(1)
    COMMANDS[options.command](options)


def _needs_plots(command: str) -> None:
    """Refuse a command without matplotlib at its start, not at its end an hour later."""
    if COMMANDS[command] in (_evaluate, _card) and find_spec("matplotlib") is None:
        how = f"{sys.executable} -m pip install -c deploy/lock.txt matplotlib"
        sys.exit(f"{command} draws plots with matplotlib, which is not installed: {how}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models.demo.recipe", description=__doc__)
    parser.add_argument("command", choices=tuple(COMMANDS))
    parser.add_argument("--state", type=Path, default=Path.home() / ".cache/printworks-demo")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--lanes", type=int, default=None, help="replicas; default: CPUs, or 1")
    parser.add_argument("--batch", type=int, default=None, help="default: 64, on a GPU 512")
    parser.add_argument("--shards", type=int, default=120, help="of 2048 scenes each")
    parser.add_argument("--snapshot-minutes", type=float, default=10)
    parser.add_argument("--fresh", action="store_true", help="start from nothing")
    parser.add_argument("--prompts", type=int, default=320, help="of the main figures")
    parser.add_argument("--others", type=int, default=320, help="seen ones, and of two things")
    parser.add_argument("--sweep", type=int, default=64, help="prompts at each value of a lever")
    return parser


def _fit(state: Path) -> None:
    rng = random.Random("fit")
    drawn = [scenes.draw_scene(rng, held_out=False) for _ in range(FIT_PICTURES)]
    torch.manual_seed(0)
    save_vae(fitted_vae(np.stack([scenes.render(scene, rng) for scene in drawn])), state)


def _vae(options: argparse.Namespace) -> AutoencoderTiny:
    path = options.state / "vae.pt"
    if not path.exists() and (options.weights / "vae").exists() and not options.fresh:
        save_vae(load_pipeline(options.weights).vae, options.state)
    if not path.exists():
        _fit(options.state)
    vae = build_vae()
    vae.load_state_dict(torch.load(path))
    return vae.eval()


def _decoder(options: argparse.Namespace) -> None:
    train_decoder(_vae(options), options.state, minutes=options.minutes, device=options.device)


def _judge(options: argparse.Namespace) -> None:
    train_judge(minutes=options.minutes, device=options.device)


def _train(options: argparse.Namespace) -> None:
    on_cpu = options.device == "cpu"
    lanes = options.lanes or (os.cpu_count() if on_cpu else 1) or 1
    batch = options.batch or (64 if on_cpu else 512)  # a quarter more pictures/s than 32
    cache = dataset.Cache(options.state / f"latents-{scenes.version()}")
    encoder = LinearEncoder(_vae(options))
    processes = max(1, (os.cpu_count() or 2) // 2)
    dataset.fill_in_background(cache.folder, encoder, shards=options.shards, processes=processes)
    cache.wait(min(FIRST_SHARDS, options.shards))
    training = Training(cache, options.state, device=options.device, lanes=lanes, batch=batch)
    if options.fresh or not training.resume():
        made = not options.fresh and (options.weights / "unet").exists()
        if made:
            training.start_from(load_pipeline(options.weights))
        training.read_first(anchored=made)
    print(f"from {training.pictures_seen} pictures", flush=True)
    training.run(
        options.minutes,
        every_minutes=options.snapshot_minutes,
        on_snapshot=lambda now: _snapshot(now, options),
    )


def _snapshot(training: Training, options: argparse.Namespace) -> None:
    """Generate the preview grid with the averaged weights, and export them."""
    model = training.averaged()
    pipeline = build_pipeline(_vae(options), model.unet, model.text_encoder, model.tokenizer)
    sheet = grid(draw(pipeline, PROMPTS))
    sheet.save(options.state / f"grid-{training.pictures_seen:08d}.png")
    export(pipeline, options.weights)


def _evaluate(options: argparse.Namespace) -> None:
    figures = evaluate(
        options.weights,
        prompts=options.prompts,
        others=options.others,
        sweep=options.sweep,
        workers=options.lanes or os.cpu_count() or 1,
    )
    figures |= about(options.weights, options.state)
    EVALUATION.write_text(json.dumps(figures, indent=1) + "\n")
    _card(options)


def _card(options: argparse.Namespace) -> None:
    """Write the card's images and text, from evaluation.json and the committed weights."""
    from models.demo.recipe.plots import plot_levers, plot_loss  # noqa: PLC0415 - `_needs_plots`

    figures = json.loads(EVALUATION.read_text())
    plot_levers(figures, options.weights / "levers.png")
    if (options.state / "loss.csv").exists():
        plot_loss(options.state / "loss.csv", options.weights / "loss.png")
    grid(draw(load_pipeline(options.weights), PROMPTS)).save(options.weights / "grid.png")
    (options.weights / "README.md").write_text(committed_card())


COMMANDS = {
    "decoder": _decoder,
    "judge": _judge,
    "train": _train,
    "evaluate": _evaluate,
    "card": _card,
}

if __name__ == "__main__":
    main()
