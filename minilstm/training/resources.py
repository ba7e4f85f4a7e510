"""Arithmetic and memory of a training step, computed and announced before the first step is made.

Read next: progress.py.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..backend import asarray, current_backend, free_host_memory, use_backend, xp
from ..config import Config
from ..data import Source
from ..errors import ConfigError, number_of
from ..evaluation import judging
from ..gpu import products, side_by_side, wavefront
from ..gpu.diagnosis import tf32_is_offered
from ..layers import linear
from ..layers.init import Blank
from ..layers.workspace import Reused, use_workspace
from ..models import EncoderDecoder
from ..runs import build
from .batches import draw_masks
from .distributed import ALONE, Alone


def gflop_per_step(model: EncoderDecoder, config: Config) -> float:
    """Return the multiplications and additions in the matrix products of one step, in 1e9."""
    past, future = config.data.past, config.data.future
    steps = {"encoder": past, "reconstruct": past, "predict": future}
    data = ["encoder.0."]
    if config.feeding.inputs == "truth":
        data += ["reconstruct.stack.0.", "predict.stack.0."]
    total = 0
    for name, param in model.params().items():
        if param.value.ndim == 2 and not name.endswith("Wp"):
            # forward, gradient of the weight, gradient of the input; data needs no gradient
            passes = 2 if name in [prefix + W for prefix in data for W in ("Wx", "Wi")] else 3
            part = name.partition(".")[0]
            if config.run.recompute > 0:
                own = config.feeding.inputs != "truth" and getattr(
                    getattr(model, part), "conditional", False
                )
                if "readout" not in name or own:  # own frames are computed again too
                    passes += 1
            uses = steps[part]
            if config.model.start == "read" and ".stack." in name:
                uses -= 1  # its first frame needs no step
            total += passes * param.value.size * uses
    return 2 * total * config.run.batch_size / 1e9


VALIDATION_BYTES = 100_000_000  # the most that validation may allocate for itself


@dataclass(frozen=True)
class Memory:
    """Bytes of memory for training: `fixed`, and `per_sequence` of a batch."""

    fixed: int
    per_sequence: int

    def needed(self, batch_size: int) -> int:
        """Return the bytes for batches of this size."""
        return self.fixed + batch_size * self.per_sequence

    def validation_chunk(self, batch_size: int) -> int:
        """Return how many validation sequences are decoded at a time: a batch, or more.

        More, up to 200, if they need at most VALIDATION_BYTES. A batch uses the training buffers.
        """
        cheap = min(judging.CHUNK_SEQUENCES, VALIDATION_BYTES // self.per_sequence)
        return max(batch_size, cheap)


def weights_memory(config: Config, D: int) -> int:
    """Return the bytes of parameters, gradients and optimizer state, without allocating them.

    A GPU also holds a copy of parameters and state, of which a checkpoint is written. A blank model
    gives the sizes: memory pages that are never touched take no memory.
    """
    on_host = current_backend().name == "numpy"
    with use_backend("numpy", config.run.dtype):
        blank = build.build_model(config, D, Blank())
        size = sum(param.value.nbytes for param in blank.params().values())
    saved = 1 + len(build.RULES[config.optimizer.rule].starts)
    return (1 + (saved if on_host else 2 * saved)) * size


def memory_of(model: EncoderDecoder, config: Config) -> Memory:
    """Return the memory for training `model`: weights, buffers of a step, and waiting batches.

    The buffers are measured for batches of one and two sequences; they grow linearly.
    """
    on_host = current_backend().name == "numpy"
    with use_backend("numpy", config.run.dtype):  # buffers of the host are measured
        one, two = _measured(model.D, config)
    frames = (config.data.past + config.data.future) * model.D * np.dtype(config.run.dtype).itemsize
    fixed = weights_memory(config, model.D) + 2 * one - two
    if not on_host:
        longest = max(config.data.past, config.data.future)
        # an upper bound: validation has no masks, and its last batch may be small
        streams = side_by_side.STREAMS
        if model.encoder.wants_wavefront(longest, B=1, masks=None):
            streams += wavefront.MORE_STREAMS
        fixed += streams * (products.WORKSPACE + products.OF_HANDLE)
    return Memory(fixed, two - one + 5 * frames)  # of 5 batches: 3 wait, 1 is drawn, 1 is used


# Sizes of three small models. They are primes, so that two buffers of different shapes do not have
# the same size by chance: a buffer may be used again for an array of the same size.
SCALES = (29, 31, 37)


def _measured(D, config):
    """Return the bytes of buffers for batches of one and of two sequences.

    The size of the buffers is a linear function of the size of the model, except for the buffers
    for gradients of weights, whose size is known. So two small models with the same ratio of units
    to pixels are measured, and the size for the large model is extrapolated from them. A third
    small model checks that the function is linear. If there are no such small models, or if the
    check fails, the model itself is measured.
    """
    H = config.model.hidden
    k = math.gcd(D, H)
    if (
        k > max(SCALES) and config.model.cell_file is None
    ):  # a user's cell may accept only some sizes
        measured = [_buffers(n * H // k, n * D // k, config) for n in SCALES]
        sizes = np.array([size for size, _ in measured])  # (scale, batch)
        a, b, c = SCALES
        slope = (sizes[1] - sizes[0]) // (b - a)
        if (sizes[0] + (c - a) * slope == sizes[2]).all():
            rest = _size_for_gradients(_blank(H, D, config))
            return [int(size) + rest for size in sizes[0] + (k - a) * slope]
    sizes, rest = _buffers(H, D, config)
    return [size + rest for size in sizes]


def _buffers(H, D, config):
    """Return the bytes [for one, for two sequences], and the bytes for gradients of weights.

    The first two numbers do not include the third.
    """
    model = _blank(H, D, config)
    rest = _size_for_gradients(model)
    return [_buffers_of_a_step(model, config, B) - rest for B in (1, 2)], rest


def _blank(H, D, config):
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, hidden=H))
    return build.build_model(config, D, Blank())


def _size_for_gradients(model):
    """Return the bytes of the buffers for gradients of weights.

    A gradient is computed in blocks of rows (linear.py). Blocks of the same size share one buffer.
    """
    sizes = set()
    for name, param in model.params().items():
        if param.value.ndim == 2 and not name.endswith("Wp"):
            D, K = param.value.shape
            sizes |= {(block.stop - block.start) * K for block in linear.blocks(D, K)}
    return param.value.itemsize * sum(sizes)


def _buffers_of_a_step(model, config, B):
    past, future = config.data.past, config.data.future
    frames = np.zeros((past + future, B, model.D), config.run.dtype)
    x = asarray(frames, frames.dtype)
    feed = config.feeding.inputs == "truth"
    own = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, hidden=model.encoder.layers[0].H),
        run=dataclasses.replace(config.run, batch_size=B),
    )
    masks = draw_masks(own, 0)
    with use_workspace(Reused()) as workspace:
        outputs, cache = model.forward(x[:past], x[past:], future, feed, masks)
        dlogits = []
        for z in outputs:
            if z is not None:
                _, loss_cache = model.loss.forward(z, z)
                z = model.loss.backward(1.0, loss_cache)[0]
            dlogits.append(z)
        model.backward(tuple(dlogits), cache, want_dinputs=False)
    return workspace.nbytes


def free_memory() -> int:
    """Return the bytes that are free on the device in use, for all processes together."""
    if current_backend().name == "cupy":
        return xp.cuda.runtime.memGetInfo()[0]
    return free_host_memory()


def refuse_weights(config: Config, D: int, ranks: Alone = ALONE) -> None:
    """Raise ConfigError if the weights alone need too much memory, before any is drawn."""
    needed, free = weights_memory(config, D), free_memory() // ranks.neighbours
    if needed > free:
        raise ConfigError(
            f"expected weights that fit into the {in_words(free)} of memory that are free, got "
            f"{in_words(needed)} with their gradients and the optimizer's state: lower --hidden or "
            "--layers"
        )


def refuse_memory(memory: Memory, config: Config, ranks: Alone = ALONE) -> None:
    """Raise ConfigError if a step needs more memory than is free; the error says what fits."""
    rows = -(-config.run.batch_size // ranks.count)
    needed, free = memory.needed(rows), free_memory() // ranks.neighbours
    if needed <= free:
        return
    advice = []
    if (B := (free - memory.fixed) // memory.per_sequence) >= 1:
        advice.append(f"--batch-size {B * ranks.count} would fit")
    if config.run.memory == "full":
        K = max(1, math.isqrt(max(config.data.past, config.data.future)))
        advice.append(f"--memory recompute={K} needs less")
    advice.append("or lower --hidden")
    raise ConfigError(
        f"expected a step that fits into the {in_words(free)} of memory that are free, got one of "
        f"{in_words(needed)}: {', '.join(advice)}"
    )


def announce(
    model: EncoderDecoder,
    config: Config,
    memory: Memory,
    source: Source,
    out: Path,
    ranks: Alone = ALONE,
) -> str:
    """Describe the run in five lines. Further lines give advice and limits."""
    c, d, r = config.model, config.data, config.run
    conditional = {"none": "", "both": ", both decoders conditional"}
    conditional = conditional.get(c.conditional, f", {c.conditional} conditional")
    rows = ranks.rows(r.batch_size)
    rows = rows.stop - rows.start
    memory = in_words(memory.needed(rows))
    gflop = gflop_per_step(model, config) * rows / r.batch_size
    each = f" for each of {ranks.count} ranks" if ranks.count > 1 else ""
    advice = ""
    if r.backend == "cupy" and r.precision == "float32" and tf32_is_offered():
        advice = (
            "\nadvice    --precision tf32 is faster on this GPU: its products use a 10-bit mantissa"
        )
    if r.backend == "cupy" and r.graph and ranks.count > 1:
        advice += "\ngraphs    none: steps of several ranks are not recorded as CUDA graphs"
    schedule = config.optimizer
    if schedule.schedule == "cosine" and schedule.schedule_steps < r.steps:
        lowest = schedule.schedule_floor * schedule.learning_rate
        advice += (
            f"\nschedule  the learning rate is {lowest:.3g} from step {schedule.schedule_steps:,} "
            f"on: --schedule-steps {r.steps} would lower it until the end"
        )
    of = ""
    if math.isfinite(source.num_sequences):
        of = f", {number_of(source.num_sequences, 'sequence', ',')} to train on"
    length = number_of(r.steps, "step", ",")
    if r.minutes:
        length += f" or {number_of(r.minutes, 'minute', 'g')}"
    return "\n".join(
        (
            f"model     {c.kind}{conditional}: {number_of(c.layers, 'layer')} of "
            f"{number_of(c.hidden, 'unit')} ({c.cell_name}), {model.flat().value.size:,} "
            "parameters",
            f"data      {d.source}: {number_of(d.past, 'frame')} in, {d.future} to predict, "
            f"{_shape_in_words(source.frame_shape)}{of}",
            f"training  {length} of {number_of(r.batch_size, 'sequence')}, "
            f"{config.optimizer.rule}, "
            f"seed {r.seed}",
            f"cost      {memory} of memory, {gflop:.3g} GFLOP per step{each}, on {r.backend} in "
            f"{r.precision}",
            f"run       {out}{advice}",
        )
    )


def _shape_in_words(shape):
    """Return the shape of a frame in words."""
    if len(shape) == 1:
        return f"{number_of(shape[0], 'number')} each"
    return f"{shape[0]}x{shape[1]} pixels{' in colour' if len(shape) == 3 else ''}"


def in_words(size: int) -> str:
    """Return a number of bytes in MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
