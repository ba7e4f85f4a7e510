"""The page about a run: report.html, everything in one file.

This file fills in the words, numbers and pictures. The layout, and the script that plays the
predictions, stand in report_page.html.

Read next: run_figures.py, evaluation/judging.py.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import tempfile
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from ..backend import use_backend
from ..data import as_frames
from ..errors import RunError, number_of
from ..evaluation import judging, kept_predictions
from ..evaluation.frame_errors import in_words
from ..figures import curves, strips, style
from ..files import expect_writable, shell_word, write_file
from ..runs.run_folder import RunFolder
from ..runs.trained import find_run, is_packed, read_about
from ..training.pictures import LOSSES
from ..training.step import OF_ARRAY
from . import run_figures
from .run_figures import TrainedRun

PAGE = Path(__file__).with_suffix(".html")
PLAYED_SEQUENCES = 6  # test sequences that the page plays
FULL_SIZE_SEQUENCES = 3  # test sequences of the full-size model that the page shows
LOSSLESS_BYTES = 1_000_000  # larger pictures show noise, and are compressed with some loss
CHART = (1000, 300)  # width and height of the chart of errors, in its own units
MARGIN = 90  # left of the chart, for the numbers of its axis


@dataclasses.dataclass(frozen=True)
class Played:
    """Frames that a page plays, and a sentence about them.

    All are floats in [0, 1]. T counts all frames, `past` of them are the past.

    told        the sentence
    truth       (T, N, height, width[, 3])
    rebuilt     the reconstruction of the past, (past, N, height, width[, 3]), or None
    predicted   the prediction of the future, (T - past, N, height, width[, 3]), or None
    """

    told: str
    truth: np.ndarray
    rebuilt: np.ndarray | None
    predicted: np.ndarray | None


def write_report(
    path: str | Path, sequences: int = 1000, best: bool = False, cell: str | None = None
) -> Path:
    """Write the report.html of a run folder, judged on so many test sequences. Returns its path.

    For a trained model of the package it is NAME-report.html in the current folder.
    The weights are the newest, or with `best` those with the smallest validation loss. `cell`
    is FILE.py:CLASS for a run whose own cell's file was moved or changed. Raises RunError,
    ConfigError, DataError.
    """
    path = find_run(path)
    folder = RunFolder(path)
    out = Path(f"{path.name}-report.html") if is_packed(path) else folder.report
    expect_writable(out, remedy="copy the run to a folder of yours")
    run = open_pictures(path, best, cell)
    folder.warn_if_training(run.name, run.about)
    with (
        use_backend("numpy", run.config.run.dtype),
        np.errstate(all="ignore"),
        tempfile.TemporaryDirectory() as scratch,
    ):
        result = evaluated(run, sequences)
        figures = run_figures.FigureFolder(Path(scratch), ("png",), captioned=False)
        run_figures.draw([run], figures)
        sections = {
            "Evaluation": evaluation_table(result),
            "Training": training_section(run, folder.rows() if folder.log.exists() else []),
            "Figures": "\n".join(_figure(figure) for figure in figures.drawn),
            "Settings": _settings(run, folder),
            "Size of the slides": full_size_section(run),
        }
        page = player_page(run, result, summary_of(run, best), sections)
    write_file(out, page)
    return out


def open_pictures(path: str | Path, best: bool = False, cell: str | None = None) -> TrainedRun:
    """Open a run as `open_run` does. Raises RunError for percepts, which a page can't play."""
    run = run_figures.open_run(path, best=best, cell=cell)
    if len(run.source.frame_shape) == 1:
        raise RunError(
            f"{path}: expected a run on pictures, which the page plays, got a run on percepts: use "
            "minilstm.evaluate and minilstm.visualize"
        )
    return run


def player_page(
    run: TrainedRun,
    result: dict,
    summary: str,
    sections: dict[str, str],
    numbers: list[tuple[str, str]] | None = None,
    refresh: float = 0,
    played: Played | None = None,
    weights: str = "",
) -> str:
    """Return a page that plays predictions of a run above other sections: {title: HTML}.

    `result` is that of `evaluated`. `summary` is text. A section without a text is left out.
    `numbers` are (number, words), large at the top; by default the loss, the best baseline and the
    sharpness. With `refresh` the browser loads the page again after so many seconds. The page plays
    `played`, by default test sequences. `weights` is a sentence about the weights, shown with the
    predictions and the chart.
    """
    played = _test_sequences(run) if played is None else played
    tag = f'\n<meta http-equiv="refresh" content="{refresh:g}">' if refresh else ""
    numbers = _numbers(result) if numbers is None else numbers
    chart, moving = _chart(run, result, weights)
    shown = {title: text for title, text in sections.items() if text}
    links = (f'<a href="#{title.split()[0].lower()}">{escape(title)}</a>' for title in shown)
    texts = (
        f'<section id="{title.split()[0].lower()}"><h2>{escape(title)}</h2>\n{text}</section>'
        for title, text in shown.items()
    )
    return Template(PAGE.read_text("utf-8")).substitute(
        name=escape(run.name),
        summary=escape(summary),
        numbers="".join(
            f"<div><b>{escape(number)}</b><span>{escape(words)}</span></div>"
            for number, words in numbers
        ),
        refresh=tag,
        told=escape(f"{played.told} {weights}".strip()),
        frames=len(run.frames),
        chart=chart,
        links="".join(links),
        sections="\n\n".join(texts),
        data=json.dumps(_data(run, played) | moving, allow_nan=False),
    )


def evaluated(run: TrainedRun, N: int) -> dict:
    """Return the result of `judging.evaluate` for a run on N of its test sequences."""
    config = run.config
    frames = judging.sequences(run.source, N).astype(config.run.dtype)
    mean = judging.mean_image(config)
    return judging.evaluate(run.trained, frames, config.data.past, mean, run.source.frame_shape)


# ---------------------------------------------------------------- words and numbers


def summary_of(run: TrainedRun, best: bool = False) -> str:
    """Say what a run is, in one line."""
    c, about, step = run.config, run.about, run.about.get("step")
    conditional = "" if c.model.conditional == "none" else f", conditional: {c.model.conditional}"
    trained = f"trained {number_of(step, 'step', ',')}" if type(step) is int else "trained"
    if type(seconds := about.get("seconds")) in (int, float) and seconds:
        trained += f" in {duration(seconds)}"
        if "device" in (about.get("environment") or {}):
            trained += " on a GPU,"
    weights = ""
    if best:
        weights = "; the weights with the smallest validation loss"
    return (
        f"{c.model.kind}{conditional}, {number_of(c.model.layers, 'layer')} of "
        f"{number_of(c.model.hidden, 'unit')} ({c.model.cell_name}), "
        f"{run.trained.flat().value.size:,} "
        f"parameters; {trained} on {c.data.source}, seed {c.run.seed}{weights}"
    )


def duration(seconds: float) -> str:
    """Return seconds in words: "3 min 20 s"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _numbers(result):
    """Return the numbers at the top of the page: the loss, the best baseline, the sharpness."""
    unit, found = result["unit"], []
    if "future" in result:
        future = result["future"]["free_running"]
        found.append((f"{future['mean']:.1f}", f"{unit}, predicted future"))
        name, best = judging.best_baseline(result)
        found.append((f"{best['mean']:.1f}", f"{name}, the best baseline"))
        found.append((f"{future['sharpness']:.2f}", "sharpness: 1 is as sharp as the truth"))
    else:
        found.append(
            (f"{result['reconstruction']['free_running']['mean']:.1f}", f"{unit}, reconstructed")
        )
    return found


def _introduction(run):
    data = run.config.data
    return (
        f"Test sequences. The model sees the first {number_of(data.past, 'frame')}"
        + (", reconstructs them" if run.trained.reconstruct else "")
        + (f", and predicts the next {data.future} from them alone" if run.trained.predict else "")
        + "."
    )


def evaluation_table(result: dict) -> str:
    """Return the table of `minilstm.evaluate` as HTML."""
    head, *groups = judging.table_rows(result)
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("", *head))
    body = []
    for title, rows in groups:
        if title:
            body.append(f'<tr class="rule"><th colspan="{len(head) + 1}">{escape(title)}</th></tr>')
        for name, values in rows:
            values = [*values, *[""] * (len(head) - len(values))]
            cells = "".join(f"<td>{escape(value)}</td>" for value in values)
            kind = "" if title else ' class="model"'
            body.append(f'<tr{kind}><th scope="row">{escape(name)}</th>{cells}</tr>')
    about = f"{number_of(result['sequences'], 'test sequence')}, {result['unit']}."
    verdict = judging.verdict(result)
    return (
        f"<p>{escape(about)} First, middle and last are single frames.</p>"
        '<div class="wide"><table>'
        f"<thead><tr>{columns}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        f"<p>{escape(verdict)}</p>"
    )


def _settings(run, folder):
    tables = []
    for section, values in dataclasses.asdict(run.config).items():
        tables.append(_pairs(section, values))
    environment = run.about.get("environment")
    if isinstance(environment, dict):
        tables.append(_pairs("environment of the training", environment))
    forced = run.about.get("forced")
    if isinstance(forced, list) and forced:
        tables.append(_pairs("accepted by --force", dict(enumerate(map(str, forced), 1))))
    if is_packed(folder.path):  # its config.toml lies in the package
        command = read_about(folder.path)["command"]
    else:
        config = shell_word(folder.config)
        command = f"python -m minilstm.train --config {config} --out NEW"
    again = escape(command)
    tables = "".join(tables)
    return f'<p>To train it again:</p><pre>{again}</pre><div class="settings">{tables}</div>'


def _pairs(title, values):
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td></tr>'
        for name, value in values.items()
    )
    return f'<table><thead><tr><th colspan="2">{escape(title)}</th></tr></thead>{rows}</table>'


# ---------------------------------------------------------------- pictures


def training_section(run: TrainedRun, rows: list[dict]) -> str:
    """Return pictures of the losses and of the gradients of a log, as HTML; "" of an empty log."""
    series = curves.series_from_rows(rows, LOSSES)
    if not series:
        return ""
    norms = layer_gradients(rows)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "curves.png")
        curves.plot_curves(series, path, ylabel=run.trained.loss.unit)
        losses, gradients = image(path, "losses over the training steps"), ""
        if any(max(values) > 0 for _, values in norms.values()):
            curves.plot_curves(norms, path, ylabel="norm of the gradient")
            gradients = image(path, "norms of the gradient over the training steps")
    text = (
        f'{losses}<p class="faint">Training losses are means over the steps between two points. '
        "In training a conditional decoder may be given true frames; in validation it is "
        "free-running.</p>"
    )
    if gradients:
        text += (
            f'<h3>Gradients by layer</h3>{gradients}<p class="faint">The norm of the gradient of '
            "all parameters of a layer, before it is clipped.</p>"
        )
    return text


def layer_gradients(rows: list[dict]) -> dict[str, tuple[list, list]]:
    """Return the norm of each layer's gradient as curves: {layer: (steps, norms)}.

    The log has the norm for every parameter, such as "gradient_norm encoder.0.Wx". A layer's norm
    is the root of the sum of their squares.
    """
    found: dict[str, tuple[list, list]] = {}
    for row in rows:
        squares: dict[str, float] = {}
        for name, norm in row.items():
            if name.startswith(OF_ARRAY):
                layer = name.removeprefix(OF_ARRAY).rpartition(".")[0]
                squares[layer] = squares.get(layer, 0.0) + norm**2
        for layer, square in squares.items():
            steps, norms = found.setdefault(layer, ([], []))
            steps.append(row["step"])
            norms.append(square**0.5)
    return found


def full_size_section(run: TrainedRun) -> str:
    """Return predictions of the package's model of the slides' size, as HTML.

    Returns "" for a run on other data than moving digits, and if the package has no predictions.
    """
    if run.config.data.source != "moving-mnist" or not kept_predictions.KEPT.is_file():
        return ""
    kept = kept_predictions.read_kept(kept_predictions.KEPT)
    about, size, took = kept.about, kept.config.model, kept_predictions.FROM_START_TO_END
    text = (
        f"These predictions are not of this run. A model of the slides' size made them: "
        f"{size.layers} layers of {size.hidden} units, trained {about['step']:,} steps of "
        f"{kept.config.run.batch_size} sequences in {took} from start to end "
        f"(steps and validations alone: {duration(about['seconds'])}) on "
        f"{about.get('device', 'a CPU')}, seed {kept.config.run.seed}, commit {about['commit']}."
    )
    errors = in_words(kept.result["frame_errors"]) if "frame_errors" in kept.result else []
    return (
        f"<p>{escape(text)}</p>{full_size_picture(kept)}{evaluation_table(kept.result)}"
        f"<pre>{escape(chr(10).join(errors))}</pre>"
    )


def full_size_picture(kept: kept_predictions.KeptPredictions) -> str:
    """Return kept predictions of the first test sequences as an HTML image."""
    past, future = (x[:, :FULL_SIZE_SEQUENCES] for x in (kept.past, kept.future))
    model = (
        None if frames is None else frames[:, :FULL_SIZE_SEQUENCES]
        for frames in (kept.reconstruction, kept.prediction)
    )
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "full.png")
        strips.prediction_strip(past, future, {"model": tuple(model)}, path)
        return image(path, "truth and predictions of a model of the slides' size")


def commands_section(commands: dict[str, str]) -> str:
    """Return the commands to type next, {command: why}, as HTML."""
    return "".join(
        f"<p>To {escape(why)}:</p><pre>{escape(command)}</pre>" for command, why in commands.items()
    )


def _figure(figure):
    caption = escape(figure.caption)
    picture = image(figure.files[0], figure.title)
    return (
        f'<h3 id="{escape(figure.name)}">{escape(figure.title)}</h3>'
        f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"
    )


def image(path: Path, alt: str) -> str:
    """Return an HTML image with the picture's bytes inside."""
    from PIL import Image

    with Image.open(path) as picture:
        width, height = picture.size
        source = _inline(picture.convert("RGB"))
    return f'<img src="{source}" alt="{escape(alt)}" width="{width}" height="{height}">'


def _inline(picture):
    data = io.BytesIO()
    picture.save(data, "WEBP", lossless=True)
    if data.tell() > LOSSLESS_BYTES:
        data = io.BytesIO()
        picture.save(data, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


def _test_sequences(run):
    """Return the first test sequences, for the page to play."""
    past, shape, scale = run.config.data.past, run.source.frame_shape, run.source.scale
    frames = run.frames[:, :PLAYED_SEQUENCES]
    made = judging.pictures(run.trained, frames, past, shape, scale)
    return Played(_introduction(run), as_frames(frames, shape, scale), *made)


def _data(run, played):
    """Return what the script of the page plays: all frames in one picture, and its layout."""
    from PIL import Image

    T, N, height, width, *_ = played.truth.shape
    past = run.config.data.past
    sheet = np.full((2 * N, height, T, width, 3), style.PALE, np.uint8)
    for row, first, frames in (
        (0, 0, played.truth), (1, 0, played.rebuilt), (1, past, played.predicted)
    ):  # fmt: skip
        if frames is not None:
            pixels = strips.as_bytes("frames", frames)
            pixels = pixels if pixels.ndim == 5 else np.stack([pixels] * 3, axis=-1)
            sheet[row::2, :, first : first + len(pixels)] = pixels.transpose(1, 2, 0, 3, 4)
    picture = Image.fromarray(sheet.reshape(2 * N * height, T * width, 3))
    return {
        "sheet": _inline(picture),
        "sequences": N,
        "width": width,
        "height": height,
        "past": past,
        "rebuilt": "reconstructed" if run.trained.reconstruct else "given",
        "predicted": "predicted" if run.trained.predict else "not predicted",
    }


def _chart(run, result, weights):
    """Return the error of every frame as SVG, and the positions and labels of its cursor."""
    width, height = CHART
    T, past = len(run.frames), run.config.data.past
    xs = [round(width * (t + 0.5) / T, 1) for t in range(T)]
    means = {name: x["mean"] for name, x in result["baselines"].items()}
    lines, errors = [], [""] * T  # a line: name, colour, dashes, number of its first frame, values
    for part, name, colour, first in (
        ("reconstruction", "reconstructed", "var(--past)", 0),
        ("future", "predicted", "var(--future)", past),
    ):
        if part in result:
            values = result[part]["free_running"]["per_step"]
            lines.append((name, colour, "", first, values))
            errors[first : first + len(values)] = [f"{value:.1f}" for value in values]
    for name, dashes in (("mean image", "12 5"), ("copy of the last frame", "3 4")):
        if means[name] <= means["mean image"]:  # a worse baseline would squeeze the other curves
            values = result["baselines"][name]["per_step"]
            lines.append((name, "var(--ink)", dashes, past, values))
    highest = 1.15 * max(max(values) for *_, values in lines) or 1.0

    def y(value):
        return round(height * (1 - value / highest), 1)

    # no word stands among the curves, which may run anywhere: numbers left of them, names in a key
    parts, keys = [], []
    for tick in ticks(highest):
        parts.append(f'<path d="M0,{y(tick)}H{width}" style="stroke: var(--line)"/>')
        parts.append(
            f'<text x="-10" y="{y(tick) + 5}" text-anchor="end" style="fill: var(--faint)">'
            f"{tick:g}</text>"
        )
    for name, colour, dashes, first, values in lines:
        points = " ".join(f"{xs[first + t]},{y(value)}" for t, value in enumerate(values))
        line = (
            f'fill="none" style="stroke: {colour}" stroke-width="2.5" stroke-dasharray="{dashes}"/>'
        )
        parts.append(f'<polyline points="{points}" {line}')
        keys.append(f'<li><svg viewBox="0 0 40 8"><path d="M0,4H40" {line}</svg>{name}</li>')
    orange = style.PALETTE[1]
    parts += [
        f'<g id="cursor"><line y2="{height}" stroke="{orange}" stroke-width="2"/>'
        f'<text id="error" y="22" style="fill:{orange}"></text></g>',
        f'<text x="{xs[0]}" y="{height + 30}">frame 1</text>',
        f'<text x="{xs[-1]}" y="{height + 30}" text-anchor="end">{T}</text>',
    ]
    drawing = (
        f'<ul class="key">{"".join(keys)}</ul>'
        f'<svg viewBox="-{MARGIN} 0 {MARGIN + width} {height + 36}" role="img" '
        f'aria-label="error of every frame">{"".join(parts)}</svg>'
        f'<p class="faint">The error of every frame: {escape(result["unit"])}, mean over the test '
        f"sequences. {escape(weights)}</p>"
    )
    return drawing, {"xs": xs, "errors": errors}


def ticks(highest):
    """Return two to six round numbers from 0 to below `highest`."""
    step = 10.0 ** np.floor(np.log10(highest))
    step = next(s for s in (step / 5, step / 2, step, 2 * step) if highest / s < 5)
    return np.arange(0, highest, step)
