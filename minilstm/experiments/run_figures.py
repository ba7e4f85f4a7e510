"""Figures 5 to 10 of trained runs, and two more: saturated gates, and gradients through time.

Each figure has a caption that says what to see, where the slides or the paper have it, and what was
measured here. Figures 5, 6 and 8 show several runs under one truth; the others are drawn for each
run.

Slides: "Visualization and Qualitative Analysis". Read next: evaluation/activations.py (what is
measured), figures/strips.py and figures/panels.py (how it is drawn).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..backend import use_backend
from ..config import Config
from ..data import Source, as_frames
from ..data.rng import Purpose, keyed_rng
from ..errors import ConfigError, RunError, number_of
from ..evaluation import activations, judging
from ..figures import curves, panels, strips
from ..layers.workspace import Fresh, use_workspace
from ..models import EncoderDecoder
from ..runs import build
from ..runs.trained import find_run
from ..streams import shown_on_terminal

STEPS = 100  # predicted steps in Figure 7
UNITS = 200  # units shown in Figures 7, 9 and 10
SEQUENCES = 20  # test sequences; the numbers in captions are means over them
STRIP_SEQUENCES = 3  # sequences of a strip
LATEST = 10  # a strip shows the last 10 frames of a long past, as the slides do
VANISHED = 1e-15  # relative gradients below this are not drawn
FORMATS = ("png", "pdf", "gif")
TRAINED, RANDOM = "trained", "randomly initialised"
NO_PICTURES = "percepts are not pictures, and neither are the weights of percepts"


@dataclass(frozen=True)
class DrawnFigure:
    """A figure that was drawn: its name, title, caption and files."""

    name: str
    title: str
    caption: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class TrainedRun:
    """A trained run with what its figures need: test sequences, and an untrained model.

    name      of the run folder, or as the caller calls it
    source    the test data
    frames    test sequences (T, N, D), in the run's precision
    trained   the model of the run
    random    the same model before training
    about     the description in the checkpoint of `trained`, such as its step
    """

    name: str
    config: Config
    source: Source
    frames: np.ndarray
    trained: EncoderDecoder
    random: EncoderDecoder
    about: dict

    @property
    def past(self) -> np.ndarray:
        """The past frames (past, N, D), which the encoder sees."""
        return self.frames[: self.config.data.past]

    @property
    def models(self) -> dict[str, EncoderDecoder]:
        """Both models, by the names that figures give them."""
        return {TRAINED: self.trained, RANDOM: self.random}


def open_run(
    path: str | Path, name: str | None = None, best: bool = False, cell: str | None = None
) -> TrainedRun:
    """Read a run and its test sequences. Raises RunError, ConfigError, DataError.

    `path` is a run folder or the name of a trained model. The weights are the newest, or with
    `best` those with the smallest validation loss. `cell` is FILE.py:CLASS for a run whose own
    cell's file was moved or changed.
    """
    path = find_run(path)
    config = build.read_config(path, cell)
    with use_backend("numpy", config.run.dtype):
        trained, about = build.read_run(path, best, cell)
        random = build.build_model(config, trained.D)
    for model in (trained, random):
        model.set_segments()  # no truncation, no recomputation
    build.expect_data(path, config)
    build.expect_same_data(path, config, about)
    source, frames = build.open_source(config, "test"), _test_frames(config)
    if frames.shape[2] != trained.D:
        raise RunError(
            f"{path}: expected frames of {trained.D} numbers, as in training, got "
            f"{frames.shape[2]}: is the data that config.toml names still the same?"
        )
    name = name or Path(path).resolve().name
    return TrainedRun(name, config, source, frames, trained, random, about)


def open_runs(
    paths: Sequence[str | Path], best: bool = False, cell: str | None = None
) -> list[TrainedRun]:
    """Read several runs. Runs whose folders have the same name get the parent's name, too.

    `cell` is for every run with a cell of the user's own. At least one run must have such a cell.
    Raises ConfigError if two names are still equal, and what `open_run` raises.
    """
    folders = [find_run(path).resolve() for path in paths]
    names = [path.name for path in folders]
    for k, path in enumerate(folders):
        if [p.name for p in folders].count(path.name) > 1:
            names[k] = f"{path.parent.name}-{path.name}"
    if len(set(names)) < len(names):
        raise ConfigError(
            f"expected runs of different names, got {', '.join(names)}: name each once"
        )
    cells = [cell] * len(folders)
    if cell is not None:
        own = [build.read_config(path).model.cell_file is not None for path in folders]
        cells = [cell if here or not any(own) else None for here in own]
    return [
        open_run(path, name, best, cell)
        for path, name, cell in zip(folders, names, cells, strict=True)
    ]


# ---------------------------------------------------------------- Figures 5, 6 and 8


def fig5(runs: list[TrainedRun], folder: FigureFolder) -> None:
    """Draw Figure 5, strips and films, for runs on digits or on sequences of a file."""
    others = ("patches", "percepts")  # percepts are not pictures
    _predictions([run for run in runs if run.config.data.source not in others], folder, 5)


def fig6(runs: list[TrainedRun], folder: FigureFolder) -> None:
    """Draw Figure 6, strips and films, for runs on patches."""
    _predictions([run for run in runs if run.config.data.source == "patches"], folder, 6)


def _predictions(runs, folder, number):
    if not runs:
        kind = "patches" if number == 6 else "moving digits"
        return folder.leave_out(f"fig{number}", f"no run on {kind} was given")
    first = _same_data(runs)
    source = first.config.data.source
    what = {
        "moving-mnist": "digits",
        "actions": "actions of digits",
        "action-changes": "changes from frame to frame",
        "patches": "patches of natural video",
    }.get(source, "sequences")
    title = f"Reconstruction and prediction of {what} that were not seen in training"
    caption = (
        f"Slides, Figure {number}. Left: the true past, and below it what each model reconstructed "
        "from its code alone. Right: the true future, and what each model predicted from the past "
        "alone. See whether things move as they should, and how long they stay sharp."
    )
    if source == "action-changes":
        caption += " Grey means no change."
    if (hidden := first.config.data.past - LATEST) > 0:
        caption += f" The model saw {first.config.data.past} frames; the last {LATEST} are shown."
    _strip(
        folder,
        f"fig{number}",
        title,
        caption,
        runs,
        first.frames[:, :STRIP_SEQUENCES],
        max(0, hidden),
    )


def _same_data(runs):
    """Return the first run. Raises ConfigError if not all have the same data."""
    for run in runs[1:]:
        if run.config.data != runs[0].config.data:
            raise ConfigError(
                f"expected runs on the same data, to compare them under one truth, got "
                f"{run.name} and {runs[0].name} with other settings in [data]: give one of them"
            )
    return runs[0]


def fig8(runs: list[TrainedRun], folder: FigureFolder) -> None:
    """Draw Figure 8: one digit fewer and one digit more than in training."""
    runs = [run for run in runs if run.config.data.source == "moving-mnist"]
    if not runs:
        return folder.leave_out(
            "fig8", "it needs a run on Moving MNIST, where the number of digits can be changed"
        )
    first = _same_data(runs)
    data, model = first.config.data, first.trained
    own = data.num_digits
    shown, losses = [], []
    for n in range(max(1, own - 1), own + 2):
        config = dataclasses.replace(first.config, data=dataclasses.replace(data, num_digits=n))
        frames = _test_frames(config)
        _, logits = judging.decode(model, frames, data.past)
        if logits is not None:
            loss = judging.loss_per_step(model.loss, logits, frames[data.past :]).mean()
            losses.append(f"{n}: {loss:.0f}")
        if n != own:
            shown.append((number_of(n, "digit"), frames[:, :1]))
    words = " and ".join(name for name, _ in shown)
    caption = (
        f"Paper, Figure 8: out-of-domain input. The model was trained on "
        f"{number_of(own, 'digit')} and is given {words}. See whether it still draws {own}. If so, "
        "it has learned how many digits there are, and not only how they move."
    )
    if losses:
        caption += f" Nats per predicted frame of {first.name} by number of digits: "
        caption += ", ".join(losses) + "."
    title = f"{words.capitalize()} given to a model trained on {own}"
    frames = np.concatenate([frames for _, frames in shown], axis=1)
    _strip(folder, "fig8", title, caption, runs, frames, 0)


def _test_frames(config):
    """Return test sequences (T, N, D) for a configuration, in its precision."""
    source = build.open_source(config, "test")
    return judging.sequences(source, SEQUENCES).astype(config.run.dtype)


def _strip(folder, name, title, caption, runs, frames, hidden):
    """Draw one truth and a row for every run. The first `hidden` frames are not shown."""
    first = runs[0]
    past, shape, scale = first.config.data.past, first.source.frame_shape, first.source.scale
    models = {}
    for run in runs:
        reconstruction, prediction = judging.pictures(run.trained, frames, past, shape, scale)
        if reconstruction is not None:
            reconstruction = reconstruction[hidden:]
        models["model" if len(runs) == 1 else run.name] = (reconstruction, prediction)
    truth = as_frames(frames, shape, scale)
    drawn = truth[hidden:past], truth[past:], models
    folder.draw(
        name, title, caption,
        lambda path, text: strips.prediction_strip(*drawn, path, hidden + 1, text),
    )  # fmt: skip
    folder.film(name, lambda path: strips.prediction_gif(*drawn, path, hidden + 1))


# ---------------------------------------------------------------- Figure 7


def fig7(run: TrainedRun, folder: FigureFolder) -> None:
    """Draw Figure 7: activity of units of the future decoder, trained and random."""
    if run.trained.predict is None:
        return folder.leave_out("fig7", "an autoencoder has no future decoder")
    rows, peaks, periods = {}, {}, {}
    for name, model in run.models.items():
        # the bottom layer; a model of one layer has no other
        found = activations.future_signals(model, run.past, STEPS)[0]
        units = np.sort(activations.largest(found["h"][:, 0].T, UNITS))
        rows[name] = {}
        for letter, signal in found.items():
            words, limits = activations.title_and_range(model.predict.stack.layers[0], letter)
            peak, period = activations.periodicity(signal)
            if letter == "h":
                peaks[name] = peak.mean()
                periods[name] = np.median(period[period > 0]) if period.any() else 0
            text = f"peak {peak.mean():.2f}"
            rows[name][words] = (signal[:, 0, units], limits, text)
    caption = (
        'Slides, "(a) Trained, (b) Randomly Initialized Future Predictor" (paper, Figure 7). '
        f"{number_of(len(units), 'unit')} of the future decoder{_chosen(run)}, a line for "
        f"each, over {STEPS} predicted steps. "
        "See whether they keep oscillating in time with the motion, or become constant. The "
        "numbers are peaks of the autocorrelation, means over all units and "
        f"{number_of(run.frames.shape[1], 'sequence')}: 1 is perfectly periodic, 0.3 is noise, 0 "
        "is constant. "
        "Output h: "
        f"{_peak(peaks, periods, TRAINED)} trained, {_peak(peaks, periods, RANDOM)} randomly "
        "initialised."
    )
    title = f"Activity of {number_of(len(units), 'unit')} over {STEPS} predicted steps"
    folder.draw("fig7", title, caption, lambda path, text: panels.activity(rows, path, text))


def _chosen(run):
    """Say which units are shown, if not all are."""
    if run.config.model.hidden <= UNITS:
        return ""
    return f" of {run.config.model.hidden}, those whose output h has the largest norm"


def _peak(peaks, periods, name):
    every = f" every {number_of(round(periods[name]), 'step')}" if periods[name] else ""
    return f"{peaks[name]:.2f}{every}"


# ---------------------------------------------------------------- Figures 9 and 10


def fig9(run: TrainedRun, folder: FigureFolder) -> None:
    """Draw Figure 9: input weights of the gates in the encoder's first layer."""
    if len(run.source.frame_shape) == 1:
        return folder.leave_out("fig9", NO_PICTURES)
    rows = {}
    for name, model in run.models.items():
        layer = model.encoder.layers[0]
        W, gates = activations.input_weights(layer), layer.num_gates
        if W is None:
            return folder.leave_out(
                "fig9", f"{type(layer).__name__} has no input weights Wx (D, {gates} H)"
            )
        found = np.split(W.T, gates)  # (H, D) each
        titles = [activations.title_and_range(layer, gate)[0] for gate in layer.gate_ranges]
        titles = titles or [f"part {k} of Wx" for k in range(1, gates + 1)]
        if gates == 1:
            titles = ["input"]
        chosen = activations.largest(
            found[titles.index("candidate g") if "candidate g" in titles else 0], UNITS
        )
        rows[name] = {t: w[chosen] for t, w in zip(titles, found, strict=True)}
    caption = (
        "Paper, Figure 9. The input weights of each unit of the encoder, as images of a frame: "
        f"{number_of(len(chosen), 'unit')}, those with the largest input weights first, the same "
        "unit at the same place in every panel of a row. Grey is 0. See whether they are spots and "
        "edges at one place; random weights are noise."
    )
    title = "Input weights of the encoder"
    folder.draw("fig9", title, caption, _weights(rows, run))


def fig10(run: TrainedRun, folder: FigureFolder) -> None:
    """Draw Figure 10: output weights of both decoders, the largest of each."""
    if len(run.source.frame_shape) == 1:
        return folder.leave_out("fig10", NO_PICTURES)
    rows = {}
    for name, model in run.models.items():
        rows[name] = {}
        for title, decoder in model.decoders.items():
            found = activations.output_weights(decoder)
            chosen = activations.largest(found, UNITS)
            rows[name][f"{title} decoder"] = found[chosen]
    caption = (
        "Paper, Figure 10. The output weights of each unit of a decoder, as images of a frame: the "
        f"{number_of(len(chosen), 'unit')} with the largest weights. Grey is 0. See whether they "
        "are strokes and blobs at one place, and compare the two decoders; random weights are "
        "noise."
    )
    folder.draw("fig10", "Output weights of the decoders", caption, _weights(rows, run))


def _weights(rows, run):
    shape = run.source.frame_shape
    return lambda path, text: panels.weights(rows, shape, path, text)


# ---------------------------------------------------------------- gates and gradients


def gates(run: TrainedRun, folder: FigureFolder) -> None:
    """Draw histograms of the gates of the encoder and of the future decoder."""
    layer = run.trained.encoder.layers[0]
    if not layer.gate_ranges:
        why = "an RNN has no gates" if layer.num_gates == 1 else "the cell names no gate_ranges"
        return folder.leave_out("gates", why)
    rows: dict = {}
    for name, model in run.models.items():
        stacks = {"encoder": activations.encoder_signals(model.encoder, run.past)[0]}
        if model.predict is not None:
            T = run.config.data.future
            stacks["future decoder"] = activations.future_signals(model, run.past, T)[0]
        for stack, found in stacks.items():
            for letter, limits in layer.gate_ranges.items():
                words, _ = activations.title_and_range(layer, letter)
                share = activations.saturation(found[letter], limits)
                panel = rows.setdefault(stack, {}).setdefault(words, {})
                panel[name] = (found[letter].ravel(), limits, f"{100 * share:.0f} % saturated")
    caption = (
        f"Histograms of gate values over all units, frames and "
        f"{number_of(run.frames.shape[1], 'sequence')}. "
        "Saturated values are those within a tenth of an end "
        "of the range, where the slope is small and little is learned. A gate at 1/2 is neither "
        "open nor closed. See whether training moves the values away from the middle. Slides, "
        '"Cells: Long-Short Term Memory".'
    )
    folder.draw(
        "gates",
        "Saturation of the gates",
        caption,
        lambda path, text: panels.histograms(rows, path, text),
    )


def gradients(run: TrainedRun, folder: FigureFolder) -> None:
    """Draw how much of a gradient reaches earlier frames, in this run and in other cells."""
    past, config = _long_past(run), run.config
    encoders = {f"{config.model.cell_name}, trained": run.trained.encoder}
    for cell in dict.fromkeys((config.model.cell, "peephole", "elman")):
        for weights in dict.fromkeys((config.init.weights, "fan-in")):
            other = dataclasses.replace(
                config,
                model=dataclasses.replace(config.model, cell=cell),
                init=dataclasses.replace(config.init, weights=weights),
            )
            model = build.build_model(other, run.trained.D)
            model.set_segments()
            encoders[f"{other.model.cell_name}, {weights} start"] = model.encoder
    series, reaching = {}, []
    for name, encoder in encoders.items():
        norms = activations.gradient_over_time(encoder, past, keyed_rng(Purpose.FIGURE, 1))
        series[name] = (np.arange(len(norms)), np.where(norms < VANISHED, np.nan, norms))
        left = f"{norms[-1]:.1g}" if norms[-1] >= VANISHED else f"below {VANISHED:g}"
        reaching.append(f"{name} {left}")
    caption = (
        'Slides, "Unrolling Recurrent Networks" and "Cells". A gradient enters after the last '
        "frame and is propagated back through time. The curves show its norm at earlier frames, "
        "relative to the last frame. See how fast each cell loses it: the simple RNN (elman) "
        "multiplies by the same matrix at every step; the LSTM has a path that its forget gates "
        f"keep open. Relative norm after {number_of(len(past) - 1, 'step')}: {'; '.join(reaching)}."
    )
    folder.draw(
        "gradients", "Reach of a gradient back in time", caption,
        lambda path, text: curves.plot_curves(
            series, path, ylabel="gradient, relative", xlabel="steps back in time", caption=text
        ),
    )  # fmt: skip


def _long_past(run):
    """Return 50 frames of moving digits, or the run's own test sequences for other sources."""
    data, T = run.config.data, 50
    if data.source != "moving-mnist":
        return run.frames
    config = dataclasses.replace(run.config, data=dataclasses.replace(data, past=T - 1, future=1))
    return _test_frames(config)


# ---------------------------------------------------------------- all of them

TOGETHER: dict[str, Callable[[list[TrainedRun], FigureFolder], None]] = {
    "fig5": fig5,
    "fig6": fig6,
    "fig8": fig8,
}
EACH: dict[str, Callable[[TrainedRun, FigureFolder], None]] = {
    "fig7": fig7,
    "fig9": fig9,
    "fig10": fig10,
    "gates": gates,
    "gradients": gradients,
}
NAMES = ("fig5", "fig6", "fig7", "fig8", "fig9", "fig10", "gates", "gradients")


class FigureFolder:
    """A folder of figures: it draws each figure in every format, and keeps a list of them.

    With `captioned` the captions also stand in the pictures. `drawn` lists the figures, `left_out`
    has {name: reason} for those that do not apply.
    """

    def __init__(self, out: Path, formats: tuple[str, ...] = FORMATS, captioned: bool = False):
        self.out, self.formats, self.captioned = out, formats, captioned
        self.suffix = ""  # of file names, where a figure is drawn for each of several runs
        self.drawn: list[DrawnFigure] = []
        self.left_out: dict[str, str] = {}

    def draw(self, name: str, title: str, caption: str, draw: Callable[[Path, str], None]) -> None:
        """Call `draw(path, caption)` for every format."""
        kinds = [kind for kind in self.formats if kind != "gif"]
        files = tuple(self.out / f"{name}{self.suffix}.{kind}" for kind in kinds)
        for path in files:
            draw(path, caption if self.captioned else "")
        self.drawn.append(DrawnFigure(name + self.suffix, title, caption, files))

    def film(self, name: str, draw: Callable[[Path], None]) -> None:
        """Call `draw(path)` for a GIF that belongs to the figure drawn last."""
        if "gif" not in self.formats:
            return
        path = self.out / f"{name}{self.suffix}.gif"
        draw(path)
        self.drawn[-1] = dataclasses.replace(self.drawn[-1], files=(*self.drawn[-1].files, path))

    def leave_out(self, name: str, why: str) -> None:
        """Note that a figure does not apply, and why."""
        self.left_out[name + self.suffix] = why


def draw(runs: list[TrainedRun], folder: FigureFolder, names: tuple[str, ...] = NAMES) -> None:
    """Draw the named figures into the folder, in the order of the slides.

    Raises ConfigError for runs on different data, if a figure compares them.
    """
    with use_workspace(Fresh()), np.errstate(all="ignore"):
        chosen = [name for name in NAMES if name in names]
        for name in shown_on_terminal(chosen, "drawing figures"):
            if name in TOGETHER:
                TOGETHER[name](runs, folder)
            else:
                for run in runs:
                    folder.suffix = f"-{run.name}" if len(runs) > 1 else ""
                    with use_backend("numpy", run.config.run.dtype):
                        EACH[name](run, folder)
                folder.suffix = ""


def captions(runs: list[TrainedRun], folder: FigureFolder) -> str:
    """Return all figures with their captions, in Markdown."""
    lines = [f"# Figures of {', '.join(run.name for run in runs)}", ""]
    for figure in folder.drawn:
        lines += [f"## {figure.title}", "", figure.caption, ""]
        lines += [
            f"![{figure.title}]({path.name})" for path in figure.files if path.suffix != ".pdf"
        ]
        lines += [""]
    return "\n".join(lines)
