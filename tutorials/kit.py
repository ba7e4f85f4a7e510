"""Tools that the tutorials share: fast mode, questions, drawing, short trainings.

MINILSTM_FAST=1 makes every tutorial short, for tests.

Pictures are written to build/images/, which git ignores. Only `run.py --images` writes to images/,
which is committed and which README.md shows: it sets MINILSTM_RENEW_IMAGES=1.
"""

from __future__ import annotations

import io
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cbook import get_sample_data
from matplotlib.figure import Figure
from PIL import Image

from minilstm import config, threads
from minilstm.backend import use_backend
from minilstm.data import Source
from minilstm.data.mobilenet import STRIDES, MobileNetV2, read_mobilenet
from minilstm.data.rng import members_of_split
from minilstm.evaluation import judging
from minilstm.figures import diagrams
from minilstm.figures.style import FAINT, INK, PALETTE
from minilstm.files import write_file
from minilstm.layers.workspace import Reused, use_workspace
from minilstm.models import EncoderDecoder
from minilstm.runs import build
from minilstm.training.batches import draw_batch
from minilstm.training.progress import Progress
from minilstm.training.step import training_step

if not set(threads.VARIABLES) & set(os.environ):
    threads.limit(1)  # a second thread gains little for small models, and slows other programs

matplotlib.rcdefaults()  # pictures are the same, whatever a user's matplotlibrc says

FAST = os.environ.get("MINILSTM_FAST", "0") not in ("", "0")
RENEW = os.environ.get("MINILSTM_RENEW_IMAGES", "0") not in ("", "0")
FOLDER = Path(__file__).resolve().parent
IMAGES = FOLDER / ("images" if RENEW and not FAST else "build/images")
if FAST:  # no tutorial shows the pictures that training writes into a run's folder
    Progress.draw = lambda run: None

WIDTH = 1100  # largest width of a picture, in pixels
BLUE, ORANGE, GREEN, PINK = PALETTE[:4]


# ---------------------------------------------------------------- questions


def questions(script: Path) -> list[str]:
    """Return the paragraphs of a tutorial that begin with **Predict:**, without their markup."""
    found = re.findall(r"# \*\*Predict:\*\* (.+?)\n#?\n", script.read_text("utf-8"), re.DOTALL)
    texts = [re.sub("[$`*]", "", " ".join(text.replace("\n#", " ").split())) for text in found]
    return [text[0].upper() + text[1:] for text in texts]


def ask() -> None:
    """Print the questions of the tutorial that runs as a script.

    A notebook shows each question above its cell, so nothing is printed there.
    """
    script = Path(getattr(sys.modules["__main__"], "__file__", None) or ".").resolve()
    if script.parent == FOLDER and re.match(r"\d\d_", script.name):
        print("Predict, before you read the output:")
        for n, question in enumerate(questions(script), 1):
            print(
                textwrap.fill(question, 96, initial_indent=f"{n:>3}. ", subsequent_indent="     ")
            )
        print(flush=True)


ask()


# ---------------------------------------------------------------- pictures


def figure(width: float = 9, height: float = 4, columns: int = 1, rows: int = 1, **keywords):
    """Return a Matplotlib figure of width x height inches, and its axes: one, or an array."""
    drawn = Figure(figsize=(width, height), dpi=120, layout="constrained")
    axes = drawn.subplots(rows, columns, **keywords)
    for ax in np.ravel(axes):
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(color=FAINT, labelcolor=INK)
    return drawn, axes


def save(drawn: Figure, name: str, show: bool = True) -> None:
    """Write a figure as a small PNG, and display it in a notebook.

    `show=False` is for the pictures that the text at the top of a tutorial shows already.
    """
    data = io.BytesIO()
    FigureCanvasAgg(drawn)
    drawn.savefig(data, format="png", bbox_inches="tight")
    _write(Image.open(data), name, show)


def save_file(draw, name: str, show: bool = True) -> None:
    """Save a figure of the library: `draw(path)` writes it, and this function makes it small."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    path = IMAGES / f"raw-{name}.png"
    draw(path)
    with Image.open(path) as picture:
        picture.load()
    path.unlink()
    _write(picture, name, show)


def save_diagram(diagram: str, name: str) -> None:
    """Save one of the library's diagrams, which the text of a tutorial shows."""
    save_file(lambda path: diagrams.draw(diagram, path), name, show=False)


def _write(picture, name, show):
    picture = picture.convert("RGB")
    if picture.width > WIDTH:
        height = round(picture.height * WIDTH / picture.width)
        picture = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.quantize(64, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
    IMAGES.mkdir(parents=True, exist_ok=True)
    write_file(IMAGES / f"{name}.png", data.getvalue())
    if show and "IPython" in sys.modules:  # in a notebook: the picture appears below the cell
        from IPython import display

        display.display(display.Image(data.getvalue()))


def pictures(
    ax, frames: np.ndarray, shape: tuple[int, ...], gap: int = 1, names: Sequence[str] = ()
) -> None:
    """Draw frames (rows, columns, D), values in [0, 1], as a table of pictures.

    `shape` is the (height, width) of one picture, or (height, width, 3) in colour. `gap` is the
    space between two, in pixels. `names` are written to the left of the rows.
    """
    rows, columns, _ = frames.shape
    height, width, *colours = shape
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, *colours), 0.55)
    for r in range(rows):
        for c in range(columns):
            y, x = r * (height + gap), c * (width + gap)
            sheet[y : y + height, x : x + width] = frames[r, c].reshape(shape)
    ax.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    for r, name in enumerate(names):
        middle = r * (height + gap) + height / 2
        ax.text(-3 * gap, middle, name, ha="right", va="center", fontsize=12, color=INK)


# ---------------------------------------------------------------- films of a photograph


def photograph() -> Image.Image:
    """Return matplotlib's portrait of Grace Hopper (public domain), in colour."""
    with get_sample_data("grace_hopper.jpg") as file, Image.open(file) as opened:
        return opened.convert("RGB")


def camera_films(N: int, T: int = 29, side: int = 16) -> np.ndarray:
    """Films of a camera that glides over a photograph and zooms: uint8 (N, T, side, side, 3).

    The photograph is matplotlib's portrait of Grace Hopper (public domain). Only the test films
    show its right two fifths; the other films show the rest. Nearly uniform views are left out.
    """
    picture = photograph()
    width, height = picture.size
    rng = np.random.default_rng(0)
    films = np.empty((N, T, side, side, 3), np.uint8)
    test = set(members_of_split(np.arange(N), "test"))
    for n in range(N):
        left, right = (0.6 * width, width) if n in test else (0, 0.6 * width)
        while True:
            size = rng.uniform(40, 100, 2)  # the view's width in pixels, first and last frame
            x, y = rng.uniform(left, right - size), rng.uniform(0, height - size)
            views = np.linspace(*np.stack([x, y, x + size, y + size], axis=1), T)
            if np.hypot(*np.diff([x, y])) > 100:  # pixels in all: too fast
                continue
            films[n] = [picture.resize((side, side), Image.Resampling.BILINEAR, tuple(view))
                        for view in views]  # fmt: skip
            if films[n].std(axis=(1, 2)).min() > 25:
                break
    return films


# ---------------------------------------------------------------- the network for percepts

WEIGHTS = FOLDER / "build" / "mobilenet_v2.safetensors"
NO_WEIGHTS = (
    "The weights of ImageNet are not in tutorials/build/mobilenet_v2.safetensors, so the text that "
    'begins with "With ImageNet\'s weights" does not describe this output.'
)


def imagenet_network() -> tuple[MobileNetV2, bool]:
    """Return MobileNetV2, and True if its weights are those of ImageNet.

    Without the file WEIGHTS they are random. In fast mode they are always random, so that tests do
    not depend on the file.
    """
    if WEIGHTS.is_file() and not FAST:
        return read_mobilenet(WEIGHTS), True
    rng = np.random.default_rng(0)

    def convolution(inputs, outputs, fan_in):
        W = rng.standard_normal((inputs, outputs)) * (2 / fan_in) ** 0.5
        return W, np.zeros(outputs)

    narrow = (16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320)  # channels of blocks
    weights = {"first": convolution(27, 32, 27), "last": convolution(320, 1280, 320)}
    channels = 32
    for n in range(1, len(STRIDES) + 1):
        wide = channels if n == 1 else 6 * channels
        if n > 1:
            weights[f"{n} widen"] = convolution(channels, wide, channels)
        weights[f"{n} look"] = convolution(9, wide, 9)
        weights[f"{n} narrow"] = convolution(wide, narrow[n - 1], wide)
        channels = narrow[n - 1]
    return MobileNetV2(weights | {"classes": convolution(1280, 1000, 1280)}), False


# ---------------------------------------------------------------- short trainings


def small(steps: int, **sections) -> config.Config:
    """Return the settings of a model that learns in seconds.

    Its films show one digit of 8 x 8 pixels on frames of 16 x 16. Other settings are given by
    section, as in small(300, model={"kind": "composite"}).
    """
    own = {
        "data": {"num_digits": 1, "frame_size": 16, "digit_size": 8, "past": 6, "future": 6},
        "model": {"layers": 1, "hidden": 64},
        "optimizer": {"learning_rate": 5e-3, "warmup_steps": 20, "schedule_steps": steps},
        "run": {"steps": steps, "batch_size": 32},
    }
    names = own.keys() | sections.keys()
    return config.load(overrides={n: own.get(n, {}) | sections.get(n, {}) for n in names})


def learn(settings: config.Config, source: Source | None = None) -> EncoderDecoder:
    """Train a model and return it. The default source is that of the settings.

    This is the loop of tutorial 06, with the library's training step.
    """
    own = source is None
    source = build.open_source(settings, "train") if own else source
    rate = build.build_schedule(settings)
    with use_backend("numpy", settings.run.precision), use_workspace(Reused()):
        model = build.build_model(settings, int(np.prod(source.frame_shape)))
        if own:
            build.start_readouts(model, judging.mean_image(settings, 400))
        optimizer = build.build_optimizer(model, settings)
        for k in range(settings.run.steps):
            batch = draw_batch(source, settings, k)
            training_step(model, optimizer, batch, settings, rate(k))
    return model
