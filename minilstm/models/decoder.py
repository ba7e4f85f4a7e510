"""The decoder: a stack that starts from the code, and a readout that turns its outputs into frames.

Here are the decoders whose inputs are known before the first step: the unconditional one, which has
no input, and the conditional one in teacher forcing. feedback.py has the forward and backward pass
of a decoder whose inputs are its own outputs.

Slides: "Recurrent Encoder-Decoder", "Predicting The Future". Paper: section 2.2 to 2.4. Read next:
composite.py, then feedback.py.
"""

from __future__ import annotations

import numpy as np

from ..backend import xp
from ..errors import ConfigError, ShapeError
from ..layers.init import PAPER_INIT, Init
from ..layers.layer import Cache, Layer, expect
from ..layers.linear import Linear
from ..layers.losses import BernoulliCrossEntropy, Loss
from ..layers.lstm import PeepholeLSTM
from ..layers.rnn import Recurrent
from ..layers.segments import SegmentedStack
from ..layers.workspace import empty, zeros
from . import feedback, samples
from .feedback import decoder_steps

STARTS = ("step", "read")


class Decoder(Layer, sample=samples.decoder, variants=samples.decoders):
    """A stack that unrolls a code into the logits of T frames.

    conditional   True: to make frame t, the stack sees frame t-1. False: it has no input (width 0)
    start         "step": run one step from the code, then read out the first frame. The input of
                  a conditional decoder is then a zero frame;
                  "read": read the first frame out of the code itself
    loss          its `mean` turns logits into the frame that is fed back

    forward(code, T, truth, feed_truth, masks) -> logits (T, B, D)
        code              the state to start from: one tuple of (B, H) arrays per layer
        truth (T, B, D)   the frames that the decoder should produce
        feed_truth        the choice of frame t-1, which is the input of step t. True: the TRUE
                          frame (teacher forcing). False: the decoder's OWN mean frame
                          (free-running). (T, B) of bool: entry t-1 decides for step t (scheduled
                          sampling)
        masks             dropout masks, one (T, B, H) of bool per gap between layers. With start
                          "read" one (T-1, B, H). None in evaluation

    Raises ConfigError for an unknown `start`, ShapeError for inputs that do not fit.
    """

    def __init__(
        self,
        D: int,
        H: int,
        layers: int,
        rng: np.random.Generator,
        conditional: bool = False,
        start: str = "step",
        loss: Loss | None = None,
        cell: type[Recurrent] = PeepholeLSTM,
        init: Init = PAPER_INIT,
        dropout: float = 0.0,
    ):
        if start not in STARTS:
            raise ConfigError(f"expected start {' or '.join(STARTS)}, got {start!r}: choose one")
        if not isinstance(conditional, bool):  # a model's `conditional` is a word, such as "none"
            raise ConfigError(
                f"expected conditional True or False, got {conditional!r}: pass a bool"
            )
        self.D, self.conditional, self.start = D, conditional, start
        width = D if conditional else 0
        self.stack = SegmentedStack(width, H, layers, rng, cell, init, dropout)
        self.readout = Linear(H, D, rng, init)
        self.loss = loss or BernoulliCrossEntropy()

    def forward(self, code, T, truth=None, feed_truth=False, masks=None):
        """code, T, truth (T, B, D), feed_truth, masks -> logits (T, B, D), cache."""
        if not isinstance(T, int | np.integer) or T < 1:
            raise ShapeError(f"expected T >= 1 frames to decode, got {T!r}: say how many")
        if code is None:
            raise ShapeError("expected a code, got None: pass the one that the encoder returns")
        if self.conditional:
            feed_truth = self._checked(feed_truth, truth, T, len(code[0][0]))
            if feed_truth is not True:
                logits, feedback_cache = feedback.forward(self, code, T, truth, feed_truth, masks)
                return logits, Cache(feedback=feedback_cache, shape=logits.shape)
        x = self._inputs(code, T, truth)
        (y, _), stack_cache = self.stack.forward(x, code, masks)
        if self.start == "read":
            y = xp.concatenate((code[-1][0][None], y))
        logits, readout_cache = self.readout.forward(y)
        return logits, Cache(
            stack=stack_cache, readout=readout_cache, feedback=None, shape=logits.shape
        )

    def backward(self, dlogits, cache, want_dtruth=True):
        """dlogits (T, B, D) -> dcode, None, dtruth or None, None, None."""
        values = cache.consume()
        expect("dlogits", dlogits, values.shape, self.dtype)
        if values.feedback is not None:
            dcode, dtruth = feedback.backward(self, dlogits, values.feedback, want_dtruth)
            return dcode, None, dtruth, None, None
        dy = self.readout.backward(dlogits, values.readout)
        if self.start == "read":
            dfirst, dy = dy[0], dy[1:]
        dx, dcode, _ = self.stack.backward((dy, None), values.stack, want_dtruth)
        if self.start == "read":
            dcode[-1][0][...] += dfirst  # the first frame was read out of the top layer's h
        dtruth = None
        if self.conditional and want_dtruth:
            dtruth = zeros(values.shape, dx.dtype)  # no step sees the last true frame
            dtruth[:-1] = dx[1:] if self.start == "step" else dx
        return dcode, None, dtruth, None, None

    def _inputs(self, code, T, truth):
        """Return the input of each step: the true frame before the one it makes, or width 0."""
        steps, B = decoder_steps(self.start, T), len(code[0][0])
        x = empty((steps, B, self.stack.layers[0].D), self.dtype)
        if not self.conditional:
            return x
        if self.start == "step":
            x[0], x[1:] = 0, truth[:-1]
        else:
            x[...] = truth[:-1]
        return x

    def _checked(self, feed_truth, truth, T, B):
        if isinstance(feed_truth, bool | np.bool_):
            feed_truth = bool(feed_truth)
        else:
            expect("feed_truth", feed_truth, (T, B), bool)
        if feed_truth is not False:
            expect("truth", truth, (T, B, self.D), self.dtype)
        return feed_truth
