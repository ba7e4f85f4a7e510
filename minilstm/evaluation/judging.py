"""Judge a model on frames that it has never seen.

Every conditional decoder gets two numbers that must never be confused. FREE-RUNNING: the decoder
sees only the past and its own output. TEACHER-FORCED: it is given the true frame before each frame
that it predicts. The slides' Table 2 is free-running. All losses are in nats per frame, or half the
squared error per frame for patches and percepts. Baselines, which need no model, are printed with
them.

Slides: "Unsupervised Evaluation Strategy", "Benchmarking" (Table 2). Read next: metrics.py.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from ..backend import (
    asarray,
    current_backend,
    free_host_memory,
    library_of,
    to_numpy,
    use_backend,
    xp,
)
from ..config import Config
from ..data import Scale, Source, as_frames, as_vectors
from ..errors import ConfigError, NonFiniteError, ShapeError, number_of, whole_number
from ..layers.layer import expect
from ..layers.losses import Loss, SquaredError
from ..layers.workspace import Fresh, use_workspace
from ..models import EncoderDecoder
from ..runs import build
from ..streams import shown_on_terminal
from . import frame_errors, metrics

CHUNK_SEQUENCES = 200  # evaluated at a time
COPIES = 6  # `evaluate` needs about this many times the memory of the frames


def sequences(source: Source, N: int) -> np.ndarray:
    """Return the first N sequences of a source, or all it has, as vectors: float32 (T, N, D).

    Raises ConfigError if judging so many would need more memory than is free, or for N < 1.
    """
    N = whole_number("sequences", int(min(N, source.num_sequences)), 1)
    numbers = source.num_frames * math.prod(source.frame_shape)
    fit = free_host_memory() // (np.dtype(np.float32).itemsize * numbers * COPIES)
    if N > fit:
        raise ConfigError(
            f"expected test sequences that fit into the {free_host_memory() / 1e9:.1f} GB of "
            f"memory that are free, got {N}: lower --sequences to {fit} or less"
        )
    chunks = [
        as_vectors(source.batch(k, CHUNK_SEQUENCES), source.scale)
        for k in range(-(-N // CHUNK_SEQUENCES))
    ]
    return np.concatenate(chunks, axis=1)[:, :N]


def mean_image(config: Config, N: int = 2000) -> np.ndarray:
    """Return the mean frame (D,) of N >= 1 sequences of the training data."""
    whole_number("N", N, 1)
    source = build.open_source(config, "train")
    counts = [min(CHUNK_SEQUENCES, N - n) for n in range(0, N, CHUNK_SEQUENCES)]
    chunks = (
        as_vectors(source.batch(k, CHUNK_SEQUENCES), source.scale) for k in range(len(counts))
    )
    means = [x[:, :count].mean(axis=(0, 1)) for x, count in zip(chunks, counts, strict=True)]
    equal = counts[-1] == counts[0]
    return np.average(means, axis=0, weights=None if equal else np.array(counts, np.float32))


def loss_of_mean_image(loss: Loss, mean: np.ndarray, future: np.ndarray) -> float:
    """Return the loss per frame of predicting the mean image (D,) for all of future (T, N, D)."""
    if isinstance(loss, SquaredError):
        return float(metrics.squared_error(future, mean).mean())
    return float(metrics.mean_image_loss(mean, future).mean())


def decode(
    model: EncoderDecoder, frames: np.ndarray, past: int, feed_truth: bool = False
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the logits of both decoders for frames (T, N, D), the first `past` of them the past.

    They are the reconstruction (past, N, D) in forward order and the prediction (T - past, N, D),
    on the host. A decoder that the model lacks gives None. `past` is 1 to T - 1.
    """
    _expect_past(past, len(frames))
    found = ([], [])
    for outputs, _ in _decoded_in_chunks(model, frames, past, feed_truth):
        for chunks, logits in zip(found, outputs, strict=True):
            if logits is not None:
                chunks.append(to_numpy(logits))
    reconstruction, future = (np.concatenate(c, axis=1) if c else None for c in found)
    return reconstruction, future


def _expect_past(past, most):
    if whole_number("past", past, 1) > most:
        raise ConfigError(f"expected past 1 to {most} for these frames, got {past}: lower past")


def _decoded_in_chunks(model, frames, past, feed_truth, size=CHUNK_SEQUENCES):
    """Yield, for one chunk of sequences after another, both decoders' logits and the frames.

    The logits are in forward order. With CuPy all arrays are on the GPU. All chunks are computed
    with `size` sequences, so that they can use the same buffers.
    """
    N = frames.shape[1]
    for n in shown_on_terminal(range(0, N, size), "predicting"):
        start = max(0, min(n, N - size))  # the last chunk repeats sequences to be full
        x = asarray(frames[:, start : start + size], model.dtype)
        outputs = model.forward(x[:past], x[past:], len(x) - past, feed_truth)[0]  # frees the cache
        new = slice(n - start, None)
        outputs = (z if z is None else z[:, new] for z in model.in_forward_order(outputs))
        yield tuple(outputs), x[:, new]


def losses_and_means(
    model: EncoderDecoder,
    frames: np.ndarray,
    past: int,
    feed_truth: bool = False,
    with_means: bool = True,
    chunk: int | None = None,
) -> dict[str, tuple[np.ndarray, Any]]:
    """Return losses per step and mean frames of each decoder that the model has, by its name.

    The names are "reconstruction" and "future". Arguments as in `decode`. The losses are float64
    (T,). The mean frames are (T, N, D), on the host and in forward order. Without `with_means` they
    are None. A GPU computes the losses, so that no logits are brought to the host. `chunk` is the
    number of sequences decoded at a time: with the batch size, the buffers of a training step are
    used again. Raises ConfigError for a `past` that is not 1 to T.
    """
    _expect_past(past, len(frames))
    if chunk is None and current_backend().name == "numpy":  # one sum over all sequences
        chunks = [(decode(model, frames, past, feed_truth), frames)]
    else:
        chunks = _decoded_in_chunks(model, frames, past, feed_truth, chunk or CHUNK_SEQUENCES)
    losses, means = {}, {}
    for outputs, x in chunks:
        share = x.shape[1] / frames.shape[1]
        for name, logits, truth in zip(
            model.output_names, outputs, (x[:past], x[past:]), strict=True
        ):
            if logits is None:
                continue
            loss = loss_per_step(model.loss, logits, truth)
            losses[name] = losses.get(name, 0.0) + share * loss
            if with_means:
                means.setdefault(name, []).append(mean_frames(model.loss, logits))
    joined = {
        name: parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)  # saves a large copy
        for name, parts in means.items()
    }
    return {name: (loss, joined.get(name)) for name, loss in losses.items()}


def loss_per_step(loss: Loss, logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the loss of every step: logits, truth (T, N, D) of one library -> float64 (T,).

    It is computed from logits, because probabilities round to 0 and 1. The logarithm of 0 is
    infinite. Arrays on a GPU stay there: only the losses are brought to the host. Raises ShapeError
    for other shapes and for bytes, which are 255 times too large.
    """
    library = library_of(logits)
    expect("logits", logits, ("T", "N", "D"), logits.dtype)
    expect("truth", truth, logits.shape, getattr(truth, "dtype", None))
    if truth.dtype.kind != "f":
        raise ShapeError(f"truth: expected floats, got {truth.dtype}: divide bytes by 255")
    with use_backend(library, "float64"), use_workspace(Fresh()):
        losses = xp.empty(len(logits), np.float64)

        def measure(step):
            t, (z, y) = step
            losses[t], _ = loss.forward(z.astype(float), y.astype(float))

        steps = list(enumerate(zip(logits[:, None], truth[:, None], strict=True)))
        if library == "numpy":
            metrics.in_threads(measure, steps)
        else:
            for step in steps:
                measure(step)
        return to_numpy(losses)


def mean_frames(loss: Loss, logits: np.ndarray | None) -> Any:
    """Return the mean frames of logits (T, N, D), on the host; None for a missing decoder."""
    if logits is None:
        return logits
    with use_backend(library_of(logits)):
        return to_numpy(loss.mean(logits, out=xp.empty(logits.shape, logits.dtype)))


def pictures(
    model: EncoderDecoder, frames: np.ndarray, past: int, shape: tuple, scale: Scale | None = None
) -> tuple[Any, Any]:
    """Return what the model makes of frames (T, N, D): its reconstruction and its prediction.

    They have the shapes (past, N, *shape) and (T - past, N, *shape). 0 is black and 1 is white; a
    predicted number may lie outside. `shape` and `scale` are those of the source. A decoder that
    the model lacks gives None.
    """
    means = (mean_frames(model.loss, logits) for logits in decode(model, frames, past))
    rebuilt, predicted = (x if x is None else as_frames(x, shape, scale) for x in means)
    return rebuilt, predicted


def evaluate(
    model: EncoderDecoder, frames: np.ndarray, past: int, mean: np.ndarray, shape: tuple
) -> dict:
    """Judge a model on frames (T, N, D): losses per step, sharpness, and baselines.

    `mean` (D,) is the mean frame of the training data. `shape` is the shape of a frame: (H, W),
    (H, W, C) in colour, (D,) for percepts. `table` makes a text of the result. Raises
    NonFiniteError for losses that are not finite, ConfigError for a `past` that leaves no future.
    """
    _expect_past(past, len(frames) - 1)
    free, forced = losses_and_means(model, frames, past), {}
    if any(decoder.conditional for decoder in model.decoders.values()):
        forced = losses_and_means(model, frames, past, feed_truth=True)
    future = frames[past:]
    truth = {"reconstruction": frames[:past], "future": future}
    result = {"sequences": frames.shape[1], "frame_shape": list(shape), "unit": model.loss.unit}
    for name in free:
        result[name] = {"free_running": _judged(*free[name], truth[name], shape)}
        if model.decoders[name].conditional:
            result[name]["teacher_forced"] = _judged(*forced[name], truth[name], shape)
    if isinstance(model.loss, SquaredError):
        per_step = {
            "copy of the last frame": metrics.squared_error(future, frames[past - 1]),
            "mean image": metrics.squared_error(future, mean),
        }
    else:
        per_step = metrics.baselines(frames[:past], future, mean)
        if "future" in free:
            _, predicted = free["future"]
            result["frame_errors"] = frame_errors.frame_errors(future, predicted, shape)
    result["baselines"] = {
        name: {"mean": float(x.mean()), "per_step": x.tolist()} for name, x in per_step.items()
    }
    try:
        json.dumps(result, allow_nan=False)
    except ValueError as error:
        raise NonFiniteError(
            "expected finite losses, got NaN or infinity: the weights are too large, train again "
            "with a lower --learning-rate"
        ) from error
    return result


def _judged(per_step, means, truth, shape):
    judged = {"mean": float(per_step.mean()), "per_step": per_step.tolist()}
    if len(shape) == 1:  # percepts are no pictures, and neither sharp nor blurred
        return judged
    sharp = metrics.sharpness(truth, means, shape)
    return judged | {
        "sharpness": float(sharp.mean()),
        "sharpness_per_step": sharp.tolist(),
        "equivalent_blur": metrics.equivalent_blur(truth, means, shape),
    }


COLUMNS = ("mean", "first", "middle", "last", "sharpness")


def table_rows(result: dict) -> list:
    """Return the result of `evaluate` in words: COLUMNS, then groups (title, [(name, values)])."""

    def row(name, x):
        steps = x["per_step"]  # the past and the future may differ in length
        shown = (x["mean"], steps[0], steps[(len(steps) - 1) // 2], steps[-1])
        sharp = [f"{x['sharpness']:.2f}"] if "sharpness" in x else []
        return name, [f"{value:.1f}" for value in shown] + sharp

    model = [
        row(f"{name}, {mode.replace('_', '-')}", result[name][mode])
        for name in ("future", "reconstruction")
        for mode in ("free_running", "teacher_forced")
        if mode in result.get(name, {})
    ]
    baselines = [row(name, x) for name, x in result["baselines"].items()]
    columns = COLUMNS if len(result["frame_shape"]) > 1 else COLUMNS[:-1]
    return [columns, ("", model), ("the future without a model:", baselines)]


def best_baseline(result: dict) -> tuple[str, dict]:
    """Return the name and numbers of the best prediction of the future without a model."""
    found = {name: x for name, x in result["baselines"].items() if name != "entropy bound"}
    return min(found.items(), key=lambda item: item[1]["mean"])


def verdict(result: dict) -> str:
    """Compare the predicted future with the best baseline in words; "" without a future."""
    if "future" not in result:
        return ""
    future, (name, best) = result["future"]["free_running"], best_baseline(result)
    whole = _compared(future["mean"], best["mean"])
    last = _compared(future["per_step"][-1], best["per_step"][-1])
    said = (
        f"The loss of the free-running future is {whole} that of the {name}.\n"
        f"In its last frame the loss is {last} that of the {name}."
    )
    if "sharpness" not in future:
        return said
    sharp = future["sharpness"]
    sample = ""
    if result["sequences"] > metrics.BLUR_SEQUENCES:
        sample = f", measured on the first {metrics.BLUR_SEQUENCES} sequences"
    word = "sharp" if sharp >= metrics.SHARP else "too blurred"
    return (
        f"{said}\n"
        f"Its sharpness is {sharp:.2f}, that of the truth blurred by "
        f"{future['equivalent_blur']:.1f} pixels (a Gaussian's standard deviation{sample}): "
        f"{word}.\n"
        f"We call a picture sharp from {metrics.SHARP} on; a blur over 3x3 pixels scores less."
    )


def table(result: dict) -> str:
    """Return the result of `evaluate` as a table of text."""
    columns, *groups = table_rows(result)

    def line(name, values):
        return f"{name:<36}" + "".join(
            f"{value:>{11 if k == 4 else 9}}" for k, value in enumerate(values)
        )

    heading = f"{number_of(result['sequences'], 'sequence')}, {result['unit']}"
    lines = [heading, "", line("", columns)]
    for title, rows in groups:
        if title:
            lines += ["", title]
        lines += [line(name, values) for name, values in rows]
    if said := verdict(result):
        lines += ["", said]
    if "frame_errors" in result:
        lines += ["", *frame_errors.in_words(result["frame_errors"])]
    return "\n".join(lines)


def comparison(results: dict[str, dict]) -> str:
    """Return a table of several results of `evaluate` on the same frames, with a row for each run.

    The losses are free-running. The sharpness is that of the future.
    """
    width = max(map(len, (*results, "free-running")))
    unit = next(iter(results.values()))["unit"]
    lines = [f"{'free-running':<{width}}{'future':>9}{'reconstruction':>17}{'sharpness':>12}"]
    for name, result in results.items():
        future, rebuilt = (
            result.get(part, {}).get("free_running", {}) for part in ("future", "reconstruction")
        )
        shown = [f"{x['mean']:.1f}" if x else "-" for x in (future, rebuilt)]
        sharp = f"{future['sharpness']:.2f}" if "sharpness" in future else "-"
        lines.append(f"{name:<{width}}{shown[0]:>9}{shown[1]:>17}{sharp:>12}")
    return "\n".join([f"{len(results)} runs on the same frames, {unit}", "", *lines])


def _compared(value, baseline):
    if baseline == 0:  # a still film is predicted exactly by its last frame
        return "equal to" if value == 0 else f"{value:.3g} above"
    share = value / baseline - 1
    return f"{abs(100 * share):.0f} % {'above' if share > 0 else 'below'}"
