"""Every figure of the slides and the paper, from trained runs.

    python -m minilstm.visualize RUN [RUN ...] [--out DIR] [--only FIGURE ...]

    fig5       strips and a film: truth, reconstruction, prediction; a row for every run
    fig6       the same on patches of natural video
    fig7       200 units of the future decoder over 100 predicted steps, trained and random
    fig8       digits more or fewer than the model was trained on
    fig9       what the units take from a frame: input weights of the gates
    fig10      what the units put into a frame: output weights of both decoders
    gates      how saturated the gates are
    gradients  how far back in time a gradient reaches: LSTM against RNN

Each is written as PNG and as PDF, with a caption that says what to see, where the slides have it,
and what was measured here; figures.md has all captions. Figures 5, 6 and 8 show several runs under
one truth; the others are drawn for each run.

Read next: activations.py (what is measured), strips.py and panels.py (how it is drawn).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .backend import use_backend
from .command import Parser, run_command
from .config import Config
from .data import MovingMNIST, SequenceFile, as_frames
from .data.rng import Purpose, keyed_rng
from .errors import ConfigError, RunError
from .evaluation import activations, judging
from .figures import curves, panels, strips
from .files import write_file
from .layers.workspace import Fresh, use_workspace
from .models import EncoderDecoder
from .runs import build

STEPS = 100  # predicted, in Figure 7
UNITS = 200  # shown in Figures 7, 9 and 10
SEQUENCES = 20  # that the numbers are means over
SHOWN = 3  # sequences of a strip
LATEST = 10  # frames of a long past that a strip shows, as the slides do
NOTHING = 1e-15  # of a gradient: where its curve ends
FORMATS = ("png", "pdf", "gif")
TRAINED, RANDOM = "trained", "randomly initialised"
NO_PICTURES = "percepts are no pictures, nor are the weights that they meet"


@dataclass(frozen=True)
class Figure:
    """A figure that was drawn: its name, a title, what to see, and its files."""

    name: str
    title: str
    caption: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Run:
    """A trained run, its model as it was before training, and sequences that it never saw."""

    name: str
    config: Config
    source: MovingMNIST | SequenceFile
    frames: np.ndarray  # (T, N, D)
    trained: EncoderDecoder
    random: EncoderDecoder

    @property
    def past(self) -> np.ndarray:
        """The frames that the encoder sees: (past, N, D)."""
        return self.frames[: self.config.data.past]

    @property
    def models(self) -> dict[str, EncoderDecoder]:
        """Both models by the words that figures use."""
        return {TRAINED: self.trained, RANDOM: self.random}


def open_run(path: str | Path, name: str | None = None, best: bool = False) -> Run:
    """Read a run folder, with test sequences. Raises RunError, ConfigError, DataError.

    The weights are the newest, or with `best` those that did best in validation.
    """
    config = build.read_config(path)
    with use_backend("numpy", config.run.dtype):
        trained = build.load_run(path, best)
        random = build.build_model(config, trained.D)
    for model in (trained, random):
        model.set_unrolling()  # nothing cut, nothing forgotten
    source, frames = build.open_source(config, "test"), _test_frames(config)
    if frames.shape[2] != trained.D:
        raise RunError(
            f"{path}: expected frames of {trained.D} numbers, which it was trained on, got "
            f"{frames.shape[2]}: is the data that config.toml names still the same?"
        )
    return Run(name or Path(path).resolve().name, config, source, frames, trained, random)


def open_runs(paths: list[str | Path], best: bool = False) -> list[Run]:
    """Several runs, each by a name of its own: the folder's, or with the folder above it."""
    paths = [Path(path).resolve() for path in paths]
    names = [path.name for path in paths]
    for k, path in enumerate(paths):
        if [p.name for p in paths].count(path.name) > 1:
            names[k] = f"{path.parent.name}-{path.name}"
    if len(set(names)) < len(names):
        raise ConfigError(
            f"expected runs of different names, got {', '.join(names)}: name each once"
        )
    return [open_run(path, name, best) for path, name in zip(paths, names, strict=True)]


# ---------------------------------------------------------------- Figures 5, 6 and 8


def fig5(runs: list[Run], plate: Plate) -> None:
    """Strips and films of runs on digits or on sequences of a file."""
    others = ("patches", "percepts")  # percepts are no pictures
    _predictions([run for run in runs if run.config.data.source not in others], plate, 5)


def fig6(runs: list[Run], plate: Plate) -> None:
    """The same of runs on patches."""
    _predictions([run for run in runs if run.config.data.source == "patches"], plate, 6)


def _predictions(runs, plate, number):
    if not runs:
        kind = "patches" if number == 6 else "moving digits"
        return plate.leave_out(f"fig{number}", f"no run on {kind} was given")
    first = _same_data(runs)
    what = "digits" if number == 5 else "patches of natural video"
    title = f"Reconstruction and prediction of {what} never seen before"
    caption = (
        f"Slides, Figure {number}. Left: the past as it was, and below it what each model rebuilt "
        "from its code alone. Right: the future as it was, and what each model predicted from the "
        "past alone. See whether things move as they should, and how long they stay sharp."
    )
    if (hidden := first.config.data.past - LATEST) > 0:
        caption += f" The model saw {first.config.data.past} frames; the last {LATEST} are shown."
    _strip(plate, f"fig{number}", title, caption, runs, first.frames[:, :SHOWN], max(0, hidden))


def _same_data(runs):
    """The first run, if all have the same data."""
    for run in runs[1:]:
        if run.config.data != runs[0].config.data:
            raise ConfigError(
                f"expected runs on the same data, to compare them under one truth, got "
                f"{run.name} and {runs[0].name} with other settings in [data]: give one of them"
            )
    return runs[0]


def fig8(runs: list[Run], plate: Plate) -> None:
    """One digit fewer and one more than the runs were trained on."""
    runs = [run for run in runs if run.config.data.source == "moving-mnist"]
    if not runs:
        return plate.leave_out(
            "fig8", "it needs a run on Moving MNIST, which can draw other digits"
        )
    first = _same_data(runs)
    data, model = first.config.data, first.trained
    own = data.num_digits
    shown, costs = [], []
    for n in range(max(1, own - 1), own + 2):
        config = dataclasses.replace(first.config, data=dataclasses.replace(data, num_digits=n))
        frames = _test_frames(config)
        _, logits = judging.decode(model, frames, data.past)
        if logits is not None:
            loss = judging.loss_per_step(model.loss, logits, frames[data.past :]).mean()
            costs.append(f"{n}: {loss:.0f}")
        if n != own:
            shown.append((_digits(n), frames[:, :1]))
    words = " and ".join(name for name, _ in shown)
    caption = (
        f"Paper, Figure 8: out of domain. The model was trained on {_digits(own)} and is given "
        f"{words}. See whether it draws {own} all the same: then it has learned how many there "
        "are, and not only how they move."
    )
    if costs:
        caption += f" Nats per predicted frame of {first.name} by number of digits: "
        caption += ", ".join(costs) + "."
    title = f"{words.capitalize()} through a model of {own}"
    frames = np.concatenate([frames for _, frames in shown], axis=1)
    _strip(plate, "fig8", title, caption, runs, frames, 0)


def _digits(n):
    return f"{n} digit{'s' * (n > 1)}"


def _test_frames(config):
    """Sequences (T, N, D) that a run of this configuration never saw, in its precision."""
    source = build.open_source(config, "test")
    return judging.sequences(source, SEQUENCES).astype(config.run.dtype)


def _strip(plate, name, title, caption, runs, frames, hidden):
    """One truth, a row for every run; the first `hidden` frames are seen but not shown."""
    first = runs[0]
    past, shape, scale = first.config.data.past, first.source.frame_shape, first.source.scale

    def picture(vectors):
        return None if vectors is None else as_frames(vectors, shape, scale)

    models = {}
    for run in runs:
        logits = judging.decode(run.trained, frames, past)
        means = (judging.mean_frames(run.trained.loss, z) for z in logits)
        reconstruction, prediction = map(picture, means)
        if reconstruction is not None:
            reconstruction = reconstruction[hidden:]
        models["model" if len(runs) == 1 else run.name] = (reconstruction, prediction)
    drawn = picture(frames[hidden:past]), picture(frames[past:]), models
    plate.draw(
        name, title, caption,
        lambda path, text: strips.prediction_strip(*drawn, path, hidden + 1, text),
    )  # fmt: skip
    plate.film(name, lambda path: strips.prediction_gif(*drawn, path, hidden + 1))


# ---------------------------------------------------------------- Figure 7


def fig7(run: Run, plate: Plate) -> None:
    """The activity of units of the future decoder: does it keep time?"""
    if run.trained.predict is None:
        return plate.leave_out("fig7", "an autoencoder has no future decoder")
    H = run.config.model.hidden
    units = np.sort(keyed_rng(Purpose.FIGURE, 0).permutation(H)[:UNITS])
    rows, peaks, periods = {}, {}, {}
    for name, model in run.models.items():
        # the bottom layer: the whole decoder, in a model of one
        found = activations.future_signals(model, run.past, STEPS)[0]
        rows[name] = {}
        for letter, signal in found.items():
            words, limits = activations.SIGNALS[letter]
            peak, period = activations.periodicity(signal)
            if letter == "h":
                peaks[name] = peak.mean()
                periods[name] = np.median(period[period > 0]) if period.any() else 0
            text = f"peak {peak.mean():.2f}"
            rows[name][f"{words} {letter}"] = (signal[:, 0, units], limits, text)
    caption = (
        'Slides, "(a) Trained, (b) Randomly Initialized Future Predictor" (paper, Figure 7). '
        f"{len(units)} units of the future decoder, one a line, over {STEPS} predicted steps. See "
        "whether they go on swinging, in time with what moves, or come to rest. The numbers are "
        f"peaks of the autocorrelation, means over all units and {run.frames.shape[1]} sequences: "
        "1 is a perfect rhythm, 0.3 noise, 0 rest. Output h: "
        f"{_peak(peaks, periods, TRAINED)} trained, {_peak(peaks, periods, RANDOM)} randomly "
        "initialised."
    )
    title = f"Activity of {len(units)} units over {STEPS} predicted steps"
    plate.draw("fig7", title, caption, lambda path, text: panels.activity(rows, path, text))


def _peak(peaks, periods, name):
    every = f" every {periods[name]:.0f} steps" if periods[name] else ""
    return f"{peaks[name]:.2f}{every}"


# ---------------------------------------------------------------- Figures 9 and 10


def fig9(run: Run, plate: Plate) -> None:
    """The input weights of the gates in the encoder's first layer, of the largest units."""
    if len(run.source.frame_shape) == 1:
        return plate.leave_out("fig9", NO_PICTURES)
    rows = {}
    for name, model in run.models.items():
        layer = model.encoder.layers[0]
        found = np.split(activations.input_weights(layer).T, layer.gates)  # (H, D) each
        titles = ["input gate i", "forget gate f", "input g", "output gate o"]
        if layer.gates == 1:
            titles = ["input"]
        chosen = activations.largest(
            found[titles.index("input g") if layer.gates == 4 else 0], UNITS
        )
        rows[name] = {t: w[chosen] for t, w in zip(titles, found, strict=True)}
    caption = (
        "Paper, Figure 9. What each unit of the encoder looks for in a frame: "
        f"{len(chosen)} units, those with the largest input weights first, the same unit at the "
        "same place in every panel. Grey is 0. See whether they are spots and edges at one "
        "place; random weights are noise."
    )
    title = "Input weights of the encoder"
    plate.draw("fig9", title, caption, _weights(rows, run))


def fig10(run: Run, plate: Plate) -> None:
    """The output weights of both decoders, the largest of each."""
    if len(run.source.frame_shape) == 1:
        return plate.leave_out("fig10", NO_PICTURES)
    rows = {}
    for name, model in run.models.items():
        decoders = {"reconstruction": model.reconstruct, "future": model.predict}
        rows[name] = {}
        for title, decoder in decoders.items():
            if decoder is not None:
                found = activations.output_weights(decoder)
                chosen = activations.largest(found, UNITS)
                rows[name][f"{title} decoder"] = found[chosen]
    caption = (
        f"Paper, Figure 10. What each unit of a decoder puts into a frame: the {len(chosen)} with "
        "the largest weights. Grey is 0. See whether they are strokes and blobs of one place, and "
        "compare the two decoders; random weights are noise."
    )
    plate.draw("fig10", "Output weights of the decoders", caption, _weights(rows, run))


def _weights(rows, run):
    shape = run.source.frame_shape
    return lambda path, text: panels.weights(rows, shape, path, text)


# ---------------------------------------------------------------- gates and gradients


def gates(run: Run, plate: Plate) -> None:
    """Histograms of the gates of the encoder and the future decoder."""
    if run.trained.encoder.layers[0].gates == 1:
        return plate.leave_out("gates", "an RNN has none")
    rows: dict = {}
    for name, model in run.models.items():
        stacks = {"encoder": activations.encoder_signals(model.encoder, run.past)[0]}
        if model.predict is not None:
            T = run.config.data.future
            stacks["future decoder"] = activations.future_signals(model, run.past, T)[0]
        for stack, found in stacks.items():
            for letter in activations.GATES:
                words, limits = activations.SIGNALS[letter]
                share = activations.saturation(found[letter], limits)
                panel = rows.setdefault(stack, {}).setdefault(f"{words} {letter}", {})
                panel[name] = (found[letter].ravel(), limits, f"{100 * share:.0f} %")
    caption = (
        "How often a gate has which value, over all units, frames and "
        f"{run.frames.shape[1]} sequences; in per cent, how often it is within a tenth of an end, "
        "where its slope is small and little is learned. Gates at 1/2 decide nothing yet: see them "
        'leave the middle with training. Slides, "Cells: Long-Short Term Memory".'
    )
    plate.draw(
        "gates",
        "How saturated the gates are",
        caption,
        lambda path, text: panels.histograms(rows, path, text),
    )


def gradients(run: Run, plate: Plate) -> None:
    """How much of a gradient reaches frames further back, in this run and in other cells."""
    past, config = _long_past(run), run.config
    encoders = {f"{config.model.cell}, trained": run.trained.encoder}
    for cell in dict.fromkeys((config.model.cell, "peephole", "elman")):
        for weights in dict.fromkeys((config.init.weights, "fan-in")):
            other = dataclasses.replace(
                config,
                model=dataclasses.replace(config.model, cell=cell),
                init=dataclasses.replace(config.init, weights=weights),
            )
            model = build.build_model(other, run.trained.D)
            model.set_unrolling()
            encoders[f"{cell}, {weights} start"] = model.encoder
    series, reaching = {}, []
    for name, encoder in encoders.items():
        norms = activations.gradient_norms(encoder, past, keyed_rng(Purpose.FIGURE, 1))
        series[name] = (np.arange(len(norms)), np.where(norms < NOTHING, np.nan, norms))
        left = f"{norms[-1]:.1g}" if norms[-1] >= NOTHING else f"below {NOTHING:g}"
        reaching.append(f"{name} {left}")
    caption = (
        'Slides, "Unrolling Recurrent Networks" and "Cells". A gradient enters after the last '
        "frame and goes back through time; how much of it arrives at earlier frames, relative to "
        "the last. See how soon each cell loses it: the simple RNN (elman) multiplies by the same "
        "matrix at every step; the LSTM has a path that its forget gates keep open. "
        f"What is left after {len(past) - 1} steps: "
        f"{'; '.join(reaching)}."
    )
    plate.draw(
        "gradients", "How far back a gradient reaches", caption,
        lambda path, text: curves.plot_curves(
            series, path, ylabel="gradient, relative", xlabel="steps back in time", caption=text
        ),
    )  # fmt: skip


def _long_past(run, T=50):
    """T frames where they can be drawn, else all that the file's sequences have."""
    data = run.config.data
    if data.source != "moving-mnist":
        return run.frames
    config = dataclasses.replace(run.config, data=dataclasses.replace(data, past=T - 1, future=1))
    return _test_frames(config)


# ---------------------------------------------------------------- all of them

TOGETHER: dict[str, Callable[[list[Run], Plate], None]] = {"fig5": fig5, "fig6": fig6, "fig8": fig8}
EACH: dict[str, Callable[[Run, Plate], None]] = {
    "fig7": fig7,
    "fig9": fig9,
    "fig10": fig10,
    "gates": gates,
    "gradients": gradients,
}
NAMES = ("fig5", "fig6", "fig7", "fig8", "fig9", "fig10", "gates", "gradients")


class Plate:
    """Where figures go: draws each in every format, and remembers what was drawn.

    `captioned` puts captions into the pictures too; a page that has them as text needs none there.
    """

    def __init__(self, out: Path, formats: tuple[str, ...] = FORMATS, captioned: bool = True):
        self.out, self.formats, self.captioned = out, formats, captioned
        self.suffix = ""  # of names, where a figure is drawn for each of several runs
        self.drawn: list[Figure] = []
        self.left_out: dict[str, str] = {}  # name: why

    def draw(self, name: str, title: str, caption: str, draw: Callable[[Path, str], None]) -> None:
        """Call `draw(path, caption)` for every format."""
        kinds = [kind for kind in self.formats if kind != "gif"]
        files = tuple(self.out / f"{name}{self.suffix}.{kind}" for kind in kinds)
        for path in files:
            draw(path, caption if self.captioned else "")
        self.drawn.append(Figure(name + self.suffix, title, caption, files))

    def film(self, name: str, draw: Callable[[Path], None]) -> None:
        """Call `draw(path)` for a GIF that belongs to the figure drawn last."""
        if "gif" not in self.formats:
            return
        path = self.out / f"{name}{self.suffix}.gif"
        draw(path)
        self.drawn[-1] = dataclasses.replace(self.drawn[-1], files=(*self.drawn[-1].files, path))

    def leave_out(self, name: str, why: str) -> None:
        """Remember that a figure does not apply."""
        self.left_out[name + self.suffix] = why


def draw(runs: list[Run], plate: Plate, names: tuple[str, ...] = NAMES) -> None:
    """Draw the figures of these names, in the order of the slides."""
    with use_workspace(Fresh()), np.errstate(all="ignore"):
        for name in NAMES:
            if name in names and name in TOGETHER:
                TOGETHER[name](runs, plate)
            elif name in names:
                for run in runs:
                    plate.suffix = f"-{run.name}" if len(runs) > 1 else ""
                    with use_backend("numpy", run.config.run.dtype):
                        EACH[name](run, plate)
                plate.suffix = ""


def captions(runs: list[Run], plate: Plate) -> str:
    """All figures with their captions, as Markdown."""
    lines = [f"# What {', '.join(run.name for run in runs)} learned", ""]
    for figure in plate.drawn:
        lines += [f"## {figure.title}", "", figure.caption, ""]
        lines += [
            f"![{figure.title}]({path.name})" for path in figure.files if path.suffix != ".pdf"
        ]
        lines += [""]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m minilstm.visualize",
        description="Draw the figures of the slides from trained runs, as PNG and PDF.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder of minilstm.train")
    parser.add_argument(
        "--out", metavar="DIR", help="where figures go (default: figures/ in the first RUN)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, metavar="FIGURE",
        help=f"some of {', '.join(NAMES)}",
    )  # fmt: skip
    parser.add_argument(
        "--best", action="store_true", help="the weights that did best in validation, not the last"
    )
    options = parser.parse_args(arguments)
    runs = open_runs(options.runs, options.best)
    plate = Plate(Path(options.out or Path(options.runs[0], "figures")))
    try:
        plate.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"expected to make the folder {plate.out}, got {error.strerror!r}: choose another --out"
        ) from error
    draw(runs, plate, tuple(options.only))
    write_file(plate.out / "figures.md", captions(runs, plate))
    told = {figure.name: figure.title for figure in plate.drawn}
    told |= {name: f"not drawn: {why}" for name, why in plate.left_out.items()}
    for name, words in told.items():
        print(f"{name:<{max(map(len, told))}}  {words}")
    print(
        f"{len(plate.drawn)} figures, PNG and PDF, and their captions: {plate.out / 'figures.md'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
