"""Small instances of every model with inputs, for the gradient check and tests/test_contracts.py.

The rules are those of layers/samples.py. Not part of the mathematics: skip this file at a first
reading.
"""

from __future__ import annotations

import copy

from ..layers.layer import Sample
from ..layers.losses import SquaredError
from ..layers.samples import randomize
from ..layers.segments import SegmentLengths
from .feedback import decoder_steps


def encoder(cls, rng) -> Sample:
    """Two layers, past (T, B, D) = (5, 3, 4), H = 2, dropout masks."""
    T, B, D, H = 5, 3, 4, 2
    layer = randomize(cls(D, H, 2, rng, dropout=0.3), rng)
    return Sample(layer, (rng.standard_normal((T, B, D)), (_kept_units(rng, T, B, H),)))


def decoder(cls, rng) -> Sample:
    """A conditional decoder with scheduled sampling."""
    return decoders(cls, rng)["conditional scheduled step"]


def decoders(cls, rng) -> dict[str, Sample]:
    """Two layers, T = 5 frames (B, D) = (3, 4), H = 2: both starts, every kind of input."""
    T, B, D, H = 5, 3, 4, 2
    mixed = rng.random((T, B)) < 0.5
    mixed[:, 0], mixed[:, 1] = True, False
    found = {}
    for start in ("step", "read"):
        for name, conditional, feed_truth in (
            ("unconditional", False, False),
            ("conditional teacher-forced", True, True),
            ("conditional free-running", True, False),
            ("conditional scheduled", True, mixed),
        ):
            layer = randomize(cls(D, H, 2, rng, conditional, start, dropout=0.3), rng)
            code = tuple(tuple(rng.standard_normal((2, B, H))) for _ in range(2))
            masks = (_kept_units(rng, decoder_steps(start, T), B, H),)
            truth = rng.random((T, B, D)) if conditional and feed_truth is not False else None
            found[f"{name} {start}"] = Sample(
                layer, (code, T, truth, feed_truth, masks), zeros={"truth": (T - 1,)}
            )
            if start == "read" or name == "conditional scheduled":
                recomputed = copy.deepcopy(found[f"{name} {start}"])
                recomputed.layer.stack.lengths = SegmentLengths(recompute=2)  # type: ignore[attr-defined]
                found[f"{name} {start}, recompute=2"] = recomputed
    return found


def autoencoder(cls, rng) -> Sample:
    """A conditional autoencoder with scheduled sampling that reads its first frame."""
    return _model(cls, rng, conditional="reconstruction", start="read")


def predictor(cls, rng) -> Sample:
    """A conditional predictor with scheduled sampling that reads its first frame."""
    return _model(cls, rng, conditional="future", start="read")


def composite(cls, rng) -> Sample:
    """A composite model with two conditional decoders and scheduled sampling."""
    return _model(cls, rng, conditional="both", start="step")


def composites(cls, rng) -> dict[str, Sample]:
    """Composite models of one and two layers: every `conditional`, both starts, other losses."""
    found = {
        f"{conditional} {start}": _model(cls, rng, conditional, start, layers=layers)
        for conditional, start, layers in (
            ("none", "step", 1),
            ("none", "read", 1),
            ("reconstruction", "read", 1),
            ("future", "step", 1),
            ("both", "step", 2),
            ("both", "read", 2),
        )
    }
    both = {"conditional": "both", "start": "step", "layers": 1}
    found["both step, teacher-forced"] = _model(cls, rng, feed_truth=True, **both)
    free = _model(cls, rng, feed_truth=False, loss=SquaredError(), **both)
    found["both step, free-running, squared error"] = free
    recomputed = _model(cls, rng, "both", "step", layers=2)
    recomputed.layer.set_segments(recompute=2)
    found["both step, recompute=2"] = recomputed
    return found


def classifier(cls, rng) -> Sample:
    """Two layers, x (T, B, D) = (5, 3, 4), H = 2, K = 6 classes, dropout masks."""
    T, B, D, H, K = 5, 3, 4, 2, 6
    layer = randomize(cls(D, H, 2, K, rng, dropout=0.3), rng)
    masks = _kept_units(rng, T, B, H), _kept_units(rng, T, B, H)
    return Sample(layer, (rng.standard_normal((T, B, D)), masks))


def _model(cls, rng, conditional, start, feed_truth=None, loss=None, layers=2):
    T_past, T_future, B, D, H = 5, 6, 3, 4, 2
    model = randomize(cls(D, H, layers, rng, conditional, start, loss, dropout=0.3), rng)
    past, future = rng.random((T_past, B, D)), rng.random((T_future, B, D))
    if feed_truth is None:  # scheduled sampling: at each step some sequences get the true frame
        feed_truth = tuple(rng.random((T, B)) < 0.5 for T in (T_past, T_future))
        for mixed in feed_truth:
            mixed[:, 0], mixed[:, 1] = True, False
    if model.predict is None or not model.predict.conditional or feed_truth is False:
        future = None
    lengths = (T_past, decoder_steps(start, T_past), decoder_steps(start, T_future))
    masks = tuple((_kept_units(rng, T, B, H),) * (layers - 1) for T in lengths)
    inputs = (past, future, T_future, feed_truth, masks)
    return Sample(model, inputs, zeros={"future": (T_future - 1,)})


def _kept_units(rng, T, B, H):
    mask = rng.random((T, B, H)) < 0.7
    mask[:, 0] = True
    return mask
