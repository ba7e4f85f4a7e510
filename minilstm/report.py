"""One page about a run, to open in any browser and to send to anybody.

    python -m minilstm.report RUN              writes RUN/report.html

Everything is in that one file, pictures too, and it asks the network for nothing: what was trained,
predictions with a slider over time, the table of `minilstm.evaluate`, the curves of training, the
figures of `minilstm.visualize` with their captions, all settings, and the environment. How it looks
is said in report_page.html; here is what it says.

Read next: visualize.py, evaluation/judging.py.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import sys
import tempfile
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from . import visualize
from .backend import use_backend
from .command import Parser, run_command
from .data import as_frames
from .errors import ConfigError, RunError
from .evaluation import judging
from .figures import curves, strips, style
from .files import write_file
from .runs import checkpoint
from .runs.run_folder import RunFolder
from .visualize import Plate

PAGE = Path(__file__).with_name("report_page.html")
SHOWN = 6  # sequences to play
LOSSLESS = 1_000_000  # bytes; a larger picture is one of noise, which nobody compares by the pixel
CHART = (1000, 300)  # of the error over time, in the units of its drawing


def write_report(path: str | Path, sequences: int = 1000, best: bool = False) -> Path:
    """Write the report.html of a run folder. Returns its path. Raises RunError, DataError."""
    folder = RunFolder(path)
    run = visualize.open_run(path, best=best)
    if len(run.source.frame_shape) == 1:
        raise RunError(
            f"{path}: expected a run on pictures, which the page plays, got one on percepts: use "
            "minilstm.evaluate and minilstm.visualize"
        )
    with (
        use_backend("numpy", run.config.run.dtype),
        np.errstate(all="ignore"),
        tempfile.TemporaryDirectory() as scratch,
    ):
        result = _evaluated(run, sequences)
        plate = Plate(Path(scratch), ("png",), captioned=False)
        visualize.draw([run], plate)
        training = _training(run, folder, Path(scratch))
        chart, moving = _chart(run, result)
        about = checkpoint.read(folder.best if best else folder.checkpoint)[1]
        page = Template(PAGE.read_text("utf-8")).substitute(
            name=escape(run.name),
            summary=_summary(run, about, best),
            numbers=_numbers(result),
            told=_told(run),
            frames=len(run.frames),
            chart=chart,
            evaluation=_table(result),
            training=training,
            training_link='<a href="#training">Training</a>' if training else "",
            figures="\n".join(_figure(figure) for figure in plate.drawn),
            settings=_settings(run, about, folder),
            data=json.dumps(_data(run) | moving, allow_nan=False),
        )
    write_file(folder.report, page)
    return folder.report


def _evaluated(run, N):
    config = run.config
    frames = judging.sequences(run.source, N).astype(config.run.dtype)
    mean = judging.mean_image(config)
    return judging.evaluate(run.trained, frames, config.data.past, mean, run.source.frame_shape)


# ---------------------------------------------------------------- words and numbers


def _summary(run, about, best):
    c, step = run.config, about.get("step")
    conditional = "" if c.model.conditional == "none" else f", conditional: {c.model.conditional}"
    trained = f"trained {step:,} steps" if type(step) is int else "trained"
    if type(seconds := about.get("seconds")) in (int, float) and seconds:
        trained += f" in {_duration(seconds)}"
    if best:
        trained += ", the weights that did best in validation"
    return escape(
        f"{c.model.kind}{conditional}, {c.model.layers} layer{'s' * (c.model.layers > 1)} of "
        f"{c.model.hidden} units ({c.model.cell}), {run.trained.flat().value.size:,} parameters; "
        f"{trained} on {c.data.source}, seed {c.run.seed}"
    )


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _numbers(result):
    """The first thing to be read: how good it is, and beside what."""
    unit, found = result["unit"], []
    if "future" in result:
        future = result["future"]["free_running"]
        found.append((f"{future['mean']:.1f}", f"{unit}, predicted future"))
        name, best = judging.best_baseline(result)
        found.append((f"{best['mean']:.1f}", f"{name}, the best without a model"))
        found.append((f"{future['sharpness']:.2f}", "sharpness: 0 is fog, 1 the truth"))
    else:
        found.append(
            (f"{result['reconstruction']['free_running']['mean']:.1f}", f"{unit}, rebuilt")
        )
    return "".join(
        f"<div><b>{escape(n)}</b><span>{escape(words)}</span></div>" for n, words in found
    )


def _told(run):
    data = run.config.data
    return (
        f"Sequences that the model has never seen. It is given the first {data.past} frames"
        + (", rebuilds them" if run.trained.reconstruct else "")
        + (f", and predicts the next {data.future} from them alone" if run.trained.predict else "")
        + "."
    )


def _table(result):
    """The table of `minilstm.evaluate`."""
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
    said = f"{result['sequences']} test sequences, {result['unit']}."
    verdict = judging.verdict(result)
    return (
        f"<p>{escape(said)} First, middle and last are single frames.</p>"
        '<div class="wide"><table>'
        f"<thead><tr>{columns}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        f"<p>{escape(verdict)}</p>"
    )


def _settings(run, about, folder):
    tables = []
    for section, values in dataclasses.asdict(run.config).items():
        tables.append(_pairs(section, values))
    environment = about.get("environment")
    if isinstance(environment, dict):
        tables.append(_pairs("environment of the training", environment))
    again = escape(
        f"python -m minilstm.train --config {folder.path.resolve().name}/config.toml --out NEW"
    )
    tables = "".join(tables)
    return f'<p>To train it again:</p><pre>{again}</pre><div class="settings">{tables}</div>'


def _pairs(title, values):
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td></tr>'
        for name, value in values.items()
    )
    return f'<table><thead><tr><th colspan="2">{escape(title)}</th></tr></thead>{rows}</table>'


# ---------------------------------------------------------------- pictures


def _training(run, folder, scratch):
    """The section with the curves of training; nothing where there is no log."""
    names = ("reconstruction", "future", "validation reconstruction", "validation future")
    rows = folder.rows() if folder.log.exists() else []
    series = curves.series_from_rows(rows, names)
    if not series:
        return ""
    path = scratch / "training.png"
    curves.plot_curves(series, path, ylabel=run.trained.loss.unit)
    return (
        '<section id="training"><h2>Training</h2>'
        + _image(path, "losses over the steps of training")
        + '<p class="faint">Means over the steps between two points, and on validation sequences. '
        "In training a conditional decoder may be given the truth; in validation it runs free.</p>"
        "</section>"
    )


def _figure(figure):
    caption = escape(figure.caption)
    image = _image(figure.files[0], figure.title)
    return (
        f'<h3 id="{escape(figure.name)}">{escape(figure.title)}</h3>'
        f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
    )


def _image(path, alt):
    """A picture as a part of the page."""
    from PIL import Image

    with Image.open(path) as picture:
        width, height = picture.size
        source = _inline(picture.convert("RGB"))
    return f'<img src="{source}" alt="{escape(alt)}" width="{width}" height="{height}">'


def _inline(picture):
    data = io.BytesIO()
    picture.save(data, "WEBP", lossless=True)
    if data.tell() > LOSSLESS:
        data = io.BytesIO()
        picture.save(data, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


def _data(run):
    """What the script of the page plays."""
    from PIL import Image

    past, shape, scale = run.config.data.past, run.source.frame_shape, run.source.scale
    frames = run.frames[:, :SHOWN]
    logits = judging.decode(run.trained, frames, past)
    rebuilt, predicted = (judging.mean_frames(run.trained.loss, z) for z in logits)
    T, N, _ = frames.shape
    height, width, *_ = shape
    sheet = np.full((2 * N, height, T, width, 3), style.PALE, np.uint8)
    for row, first, vectors in ((0, 0, frames), (1, 0, rebuilt), (1, past, predicted)):
        if vectors is not None:
            pixels = strips.as_bytes("frames", as_frames(vectors, shape, scale))
            pixels = pixels if pixels.ndim == 5 else np.stack([pixels] * 3, axis=-1)
            sheet[row::2, :, first : first + len(pixels)] = pixels.transpose(1, 2, 0, 3, 4)
    picture = Image.fromarray(sheet.reshape(2 * N * height, T * width, 3))
    return {
        "sheet": _inline(picture),
        "sequences": N,
        "width": width,
        "height": height,
        "past": past,
        "rebuilt": "rebuilt" if run.trained.reconstruct else "given",
        "predicted": "predicted" if run.trained.predict else "not asked for",
    }


def _chart(run, result):
    """The error of every frame as SVG, with a cursor; and what the script needs to move it."""
    width, height = CHART
    T, past = len(run.frames), run.config.data.past
    xs = [round(width * (t + 0.5) / T, 1) for t in range(T)]
    means = {name: x["mean"] for name, x in result["baselines"].items()}
    lines, errors = [], [""] * T  # a line: name, colour, dashes, number of its first frame, values
    for part, name, colour, first in (
        ("reconstruction", "rebuilt", style.FAINT, 0),
        ("future", "predicted", style.PALETTE[0], past),
    ):
        if part in result:
            values = result[part]["free_running"]["per_step"]
            lines.append((name, colour, "", first, values))
            errors[first : first + len(values)] = [f"{value:.1f}" for value in values]
    for name in ("mean image", "copy of the last frame"):
        if means[name] <= means["mean image"]:  # a worse one would only press the others down
            values = result["baselines"][name]["per_step"]
            lines.append((name, style.INK, "6 5", past, values))
    highest = 1.15 * max(max(values) for *_, values in lines)

    def y(value):
        return round(height * (1 - value / highest), 1)

    parts = []
    for tick in _ticks(highest):
        parts.append(f'<line x2="{width}" y1="{y(tick)}" y2="{y(tick)}" stroke="#ddd"/>')
        parts.append(f'<text y="{y(tick) - 5}" style="fill:{style.FAINT}">{tick:g}</text>')
    for name, colour, dashes, first, values in lines:
        points = " ".join(f"{xs[first + t]},{y(value)}" for t, value in enumerate(values))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5" '
            f'stroke-dasharray="{dashes}"/>'
        )
        # models are named where they end, and what needs none where it begins
        t, anchor = (0, "start") if dashes else (len(values) - 1, "end")
        at = f'x="{xs[first + t]}" y="{y(values[t]) - 9}" text-anchor="{anchor}"'
        parts.append(f'<text {at} style="fill:{colour}">{name}</text>')
    orange = style.PALETTE[1]
    parts += [
        f'<g id="cursor"><line y2="{height}" stroke="{orange}" stroke-width="2"/>'
        f'<text id="error" y="12" style="fill:{orange}"></text></g>',
        f'<text x="{xs[0]}" y="{height + 22}">frame 1</text>',
        f'<text x="{xs[-1]}" y="{height + 22}" text-anchor="end">{T}</text>',
    ]
    drawing = (
        f'<svg viewBox="0 0 {width} {height + 28}" role="img" aria-label="error of every frame">'
        f"{''.join(parts)}</svg>"
        f'<p class="faint">The error of every frame: {escape(result["unit"])}, mean over the test '
        "sequences.</p>"
    )
    return drawing, {"xs": xs, "errors": errors}


def _ticks(highest):
    """Two to five round numbers from 0 up to below `highest`."""
    step = 10.0 ** np.floor(np.log10(highest))
    step = next(s for s in (step / 5, step / 2, step, 2 * step) if highest / s < 5)
    return np.arange(0, highest, step)


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m minilstm.report",
        description="Write one page about a run, with everything in it: RUN/report.html.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder of minilstm.train")
    parser.add_argument(
        "--sequences", metavar="N", type=int, default=1000, help="to judge by (default: 1000)"
    )
    parser.add_argument(
        "--best", action="store_true", help="the weights that did best in validation, not the last"
    )
    options = parser.parse_args(arguments)
    if options.sequences < 1:
        raise ConfigError(f"expected --sequences >= 1, got {options.sequences}: ask for more")
    print(write_report(options.run, options.sequences, options.best))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
