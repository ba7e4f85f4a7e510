"""One training step: forward pass, losses, backward pass, update.

`training_step` does all four. It draws no random numbers: they come with the `Batch`.

Slides: "Objectives", "Predicting The Future". Read next: batches.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..backend import xp
from ..config import Config
from ..models import EncoderDecoder
from ..optim import Optimizer, clip_scale
from .distributed import ALONE, Alone

OF_ARRAY = "gradient_norm "  # the log has such a name for each parameter: "gradient_norm NAME"


@dataclass(frozen=True)
class Batch:
    """Frames (T, B, D), random choices and learning rate of one training step.

    past, future   frames of the sequences of this rank
    feed_truth     the choice of each decoder's inputs; see Decoder
    masks          dropout masks of encoder and decoders, or None
    share          fraction of the whole batch that this rank has: 1 for a single process
    rate           learning rate
    """

    past: np.ndarray
    future: np.ndarray
    feed_truth: tuple | bool
    masks: tuple | None
    share: float = 1.0
    rate: float = 0.0


def training_step(
    model: EncoderDecoder,
    optimizer: Optimizer,
    batch: Batch,
    config: Config,
    rate: float | np.ndarray,
    ranks: Alone = ALONE,
) -> dict:
    """Make one update. Return the losses per frame and the norms of the gradient.

    There is one norm for all weights and one for each array. Losses and norms are those of the
    whole batch, over all ranks. If a loss or the norm is not finite, weights and optimizer do not
    change. All returned values are 0-d arrays: on a GPU the function returns without waiting for
    the GPU.
    """
    T, B, _ = batch.future.shape
    logits, cache = model.forward(batch.past, batch.future, T, batch.feed_truth, batch.masks)
    targets = model.targets(batch.past, batch.future)

    losses, dlogits = {}, []
    for name, z, target in zip(model.output_names, logits, targets, strict=True):
        if z is None:
            dlogits.append(None)
            continue
        losses[name], loss_cache = model.loss.forward(z, target)
        # The loss is a mean over frames and sequences. The setting `gradient_scale` may ask for the
        # gradient of a sum over frames, or over frames and sequences.
        sums = {"mean": 1, "batch_mean": len(z), "sum": len(z) * B / batch.share}
        scale = config.loss.weights[name] * batch.share * sums[config.loss.gradient_scale]
        dz, _ = model.loss.backward(scale, loss_cache)
        dlogits.append(dz)

    grad = model.flat().grad
    grad.fill(0)
    model.backward(tuple(dlogits), cache, want_dinputs=False)
    losses = ranks.add_losses(losses, batch.share)
    ranks.sum(grad)
    norm, norms = optimizer.gradient_norms()
    finite = xp.isfinite(sum(losses.values(), norm))
    # skip the update if the loss or the gradient is not finite
    optimizer.step(rate, finite, clip_scale(norm, config.optimizer.clip_norm))
    by_array = {OF_ARRAY + name: x for name, x in zip(model.params(), norms, strict=True)}
    return losses | {"gradient_norm": norm} | by_array


def trial_step(
    model: EncoderDecoder, optimizer: Optimizer, batch: Batch, config: Config
) -> Callable[[], dict]:
    """Return a function that makes a training step without its update, to be timed.

    It is for choosing the number of threads. The update always uses one thread, so it need not be
    timed. Without it neither the weights nor the optimizer's state change.
    """
    still: Any = SimpleNamespace(
        gradient_norms=optimizer.gradient_norms, step=lambda *arguments: None
    )
    return lambda: training_step(model, still, batch, config, batch.rate)
