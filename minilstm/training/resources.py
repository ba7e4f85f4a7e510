"""What a training step costs, known before it is made: arithmetic and memory.

Read next: progress.py, which announces both.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from ..backend import asarray, current_backend, use_backend, xp
from ..config import Config
from ..errors import ConfigError
from ..gpu import products, side_by_side
from ..layers import linear
from ..layers.init import Blank
from ..layers.workspace import Reused, use_workspace
from ..models import EncoderDecoder
from ..runs import build
from .distributed import ALONE, Alone


def gflop_per_step(model: EncoderDecoder, config: Config) -> float:
    """Multiplications and additions of the matrix products of one step, in 1e9."""
    past, future = config.data.past, config.data.future
    steps = {"encoder": past, "reconstruct": past, "predict": future}
    data = ["encoder.0."]
    if config.feeding.inputs == "truth":
        data += ["reconstruct.stack.0.", "predict.stack.0."]
    products = 0
    for name, param in model.params().items():
        if param.value.ndim == 2 and not name.endswith("Wp"):
            # forward, gradient of the weight, gradient of the input; data needs no gradient
            passes = 2 if name in [prefix + W for prefix in data for W in ("Wx", "Wi")] else 3
            passes += config.run.recompute > 0 and "readout" not in name  # forward again
            uses = steps[name.partition(".")[0]]
            uses -= config.model.start == "read" and ".stack." in name
            products += passes * param.value.size * uses
    return 2 * products * config.run.batch_size / 1e9


@dataclass(frozen=True)
class Memory:
    """Bytes that training takes: `fixed`, and `per_sequence` of a batch."""

    fixed: int
    per_sequence: int

    def needed(self, batch_size: int) -> int:
        """Bytes for batches of this size."""
        return self.fixed + batch_size * self.per_sequence


def weights_memory(config: Config, D: int) -> int:
    """Bytes of parameters, their gradients and the optimizer's state, without making any of them.

    The model that is asked is blank: pages that nobody touches take no memory.
    """
    with use_backend("numpy", config.run.dtype):
        blank = build.build_model(config, D, Blank())
        size = sum(param.value.nbytes for param in blank.params().values())
    return (2 + {"adam": 2, "rmsprop": 2, "sgd": 1}[config.optimizer.rule]) * size


def memory_of(model: EncoderDecoder, config: Config) -> Memory:
    """What training `model` takes: weights, a step's buffers, and the batches that wait.

    The buffers are measured on batches of one and two sequences, and grow evenly from there.
    """
    on_host = current_backend().name == "numpy"
    with use_backend("numpy", config.run.dtype):  # the pool that counts is the host's
        one, two = _measured(model.D, config)
    frames = (config.data.past + config.data.future) * model.D * np.dtype(config.run.dtype).itemsize
    fixed = weights_memory(config, model.D) + 2 * one - two
    if not on_host:
        fixed += side_by_side.STREAMS * products.WORKSPACE
    return Memory(fixed, two - one + 4 * frames)


SCALES = (29, 31, 37)  # primes: buffers of a small model must not agree in size by chance


def _measured(D, config):
    """Bytes of buffers for batches of one and of two sequences.

    With k times as many units and pixels, buffers grow by k times, apart from those for gradients
    of weights, which are known. So two small models of the same proportions tell the size of a
    large one, and a third one checks that. A model without such likenesses is measured itself.
    """
    H = config.model.hidden
    k = math.gcd(D, H)
    if k > max(SCALES):
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
    """Bytes for batches of one and two sequences, and in each of them for gradients of weights."""
    model = _blank(H, D, config)
    rest = _size_for_gradients(model)
    return [_buffers_of_a_step(model, config, B) - rest for B in (1, 2)], rest


def _blank(H, D, config):
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, hidden=H))
    return build.build_model(config, D, Blank())


def _size_for_gradients(model):
    """Bytes of the buffers for gradients of weights, one for each size of a block of rows."""
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
    with use_workspace(Reused()) as workspace:
        outputs, cache = model.forward(x[:past], x[past:], future, feed)
        dlogits = []
        for z in outputs:
            if z is not None:
                _, loss_cache = model.loss.forward(z, z)
                z = model.loss.backward(1.0, loss_cache)[0]
            dlogits.append(z)
        model.backward(tuple(dlogits), cache, want_dinputs=False)
    return workspace.nbytes


def free_memory() -> int:
    """Bytes that can be had now, by all processes together: on the device in use."""
    if current_backend().name == "cupy":
        return xp.cuda.runtime.memGetInfo()[0]
    import psutil

    return psutil.virtual_memory().available


def refuse_weights(config: Config, D: int, ranks: Alone = ALONE) -> None:
    """Raise ConfigError if the weights alone are too much, before any is drawn."""
    needed, free = weights_memory(config, D), free_memory() // ranks.neighbours
    if needed > free:
        raise ConfigError(
            f"expected weights that fit into the {in_words(free)} of memory that are free, got "
            f"{in_words(needed)} with their gradients and the optimizer's state: lower --hidden or "
            "--layers"
        )


def refuse_memory(memory: Memory, config: Config, ranks: Alone = ALONE) -> None:
    """Raise ConfigError if a step needs more memory than is free, with what would fit."""
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


def in_words(size: int) -> str:
    """Bytes in the unit that suits them."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
