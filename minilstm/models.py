"""The models of the paper: an encoder LSTM, and decoder LSTMs that start from its final state.

    Autoencoder         encoder -> decoder that rebuilds the past, in REVERSE order
    FuturePredictor     encoder -> decoder that continues the past
    Composite           one encoder -> both

Models return logits; the loss is a layer of its own (losses.py) and tells a free-running decoder
the mean frame that its logits stand for.

Slides: "Recurrent AutoEncoders?", "Recurrent Encoder-Decoder", "Predicting The Future".
Paper: section 2. Read next: train.py.
"""

from __future__ import annotations

import math

import numpy as np

from .backend import asarray, to_numpy, xp
from .errors import ConfigError, DataError, ShapeError
from .layer import PAPER_INIT, Cache, Init, Layer, Sample, expect, expect_entries, randomize
from .linear import Linear, affine, affine_dw, affine_dx
from .losses import BernoulliCrossEntropy, Loss, SquaredError
from .lstm import PeepholeLSTM
from .rnn import Recurrent
from .stack import Stack
from .workspace import empty, zeros

STARTS = ("step", "read")


class Encoder(Stack):
    """A stack over the past whose final state, of every layer, is the code.

    past (T, B, D) -> code: one tuple of (B, H) arrays per layer.
    """

    def forward(self, past, masks=None):
        (_, code), cache = super().forward(past, None, masks)
        return code, cache

    def backward(self, dcode, cache, want_dpast=True):
        dpast, _, _ = super().backward((None, dcode), cache, want_dpast)
        return dpast, None

    @classmethod
    def sample(cls, rng):
        T, B, D, H = 5, 3, 4, 2
        encoder = randomize(cls(D, H, 2, rng, dropout=0.3), rng)
        return Sample(encoder, (rng.standard_normal((T, B, D)), (_kept(rng, T, B, H),)))


class Decoder(Layer):
    """A stack that unrolls a code into frames: its logits for T frames.

    conditional   whether step t sees frame t-1 (a zero frame at t = 0); otherwise the stack has
                  no input at all, that is inputs of width 0
    start         "step": run one step from the code, then read out the first frame;
                  "read": read the first frame out of the code itself
    loss          whose `mean` turns logits into the frame that is fed back

    forward(code, T, truth, feed_truth, masks) -> logits (T, B, D)
        truth (T, B, D)   the frames that the decoder should produce
        feed_truth        True: step t sees the TRUE frame t-1 (teacher forcing); False: its OWN
                          mean frame (free-running); (T, B) of bool: chosen for every frame fed,
                          index t-1 for the frame that step t sees (scheduled sampling)
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
        self.D, self.conditional, self.start = D, conditional, start
        self.stack = Stack(D if conditional else 0, H, layers, rng, cell, init, dropout)
        self.readout = Linear(H, D, rng, init)
        self._loss = loss or BernoulliCrossEntropy()

    def forward(self, code, T, truth=None, feed_truth=False, masks=None):
        if not isinstance(T, int | np.integer) or T < 1:
            raise ShapeError(f"expected T >= 1 frames to decode, got {T!r}: say how many")
        if self.conditional:
            feed_truth = self._checked(feed_truth, truth, T, len(code[0][0]))
            if feed_truth is not True:
                return self._forward_stepwise(code, T, truth, feed_truth, masks)
        x = self._inputs(code, T)
        if self.conditional:
            x[self._zero_frames :] = truth[: T - 1]
        (y, _), stack_cache = self.stack.forward(x, code, masks)
        if self.start == "read":
            y = xp.concatenate((code[-1][0][None], y))
        logits, readout_cache = self.readout.forward(y)
        return logits, Cache(stack=stack_cache, readout=readout_cache, shape=logits.shape)

    def backward(self, dlogits, cache, want_dtruth=True):
        """dlogits (T, B, D) -> dcode, None, dtruth or None, None, None."""
        run = cache.consume()
        if hasattr(run, "runs"):
            return self._backward_stepwise(dlogits, run)
        dy = self.readout.backward(dlogits, run.readout)
        dstart = None
        if self.start == "read":
            dstart, dy = dy[0], dy[1:]
        dx, dcode, _ = self.stack.backward((dy, None), run.stack, want_dtruth)
        dtruth = None
        if self.conditional and want_dtruth:
            dtruth = zeros(run.shape, dx.dtype)
            dtruth[:-1] = dx[self._zero_frames :]  # the last true frame is never fed
        return self._with_start(dcode, dstart), None, dtruth, None, None

    def _checked(self, feed_truth, truth, T, B):
        if getattr(feed_truth, "ndim", 0) > 0:
            expect("feed_truth", feed_truth, (T, B), bool)
        else:
            feed_truth = bool(feed_truth)
        if feed_truth is not False:
            expect("truth", truth, (T, B, self.D), self.dtype)
        return feed_truth

    # A decoder that feeds on its own output can't know its inputs beforehand: frame by frame,
    # output t -> input t+1, and back again in the opposite order.

    def _forward_stepwise(self, code, T, truth, feed_truth, masks):
        x = self._inputs(code, T)
        B, (W, b) = x.shape[1], (self.readout.W.value, self.readout.b.value)
        runs = self.stack.begin(x, code, masks)
        logits, own = (empty((T, B, self.D), self.dtype) for _ in range(2))
        y = empty((T, B, len(W)), self.dtype)
        for t in range(T):
            s = t - (self.start == "read")  # the step of the stack that makes frame t
            if t > 0:
                self._loss.mean(logits[t - 1], out=own[t - 1])
                if feed_truth is False:
                    x[s] = own[t - 1]
                else:
                    x[s] = xp.where(feed_truth[t - 1][:, None], truth[t - 1], own[t - 1])
            y[t] = self.stack.step(runs, s) if s >= 0 else code[-1][0]
            affine(y[t], W, b, out=logits[t])
        return logits, Cache(runs=runs, y=y, own=own, feed_truth=feed_truth)

    def _backward_stepwise(self, dlogits, run):
        T, B, D = dlogits.shape
        fed = run.feed_truth
        dlogits_total = empty(dlogits.shape, dlogits.dtype)
        dlogits_total[...] = dlogits
        dtruth = None if fed is False else zeros(dlogits.shape, dlogits.dtype)
        dy, dstart = empty(run.y.shape[1:], dlogits.dtype), None
        self.stack.begin_backward(run.runs)
        for t in reversed(range(T)):
            s = t - (self.start == "read")
            affine_dx(dlogits_total[t], self.readout.W.value, out=dy)
            if s < 0:
                dstart = dy
                break
            dx = self.stack.step_backward(run.runs, s, dy)
            if t > 0:
                if fed is not False:
                    dtruth[t - 1] = dx * fed[t - 1][:, None]
                    dx *= ~fed[t - 1][:, None]
                dlogits_total[t - 1] += self._loss.mean_backward(dx, run.own[t - 1])
        affine_dw(run.y, dlogits_total, self.readout.W.grad, self.readout.b.grad)
        return self._with_start(self.stack.end_backward(run.runs), dstart), None, dtruth, None, None

    @property
    def _zero_frames(self):
        # "step" is given a zero frame before frame 0; the first step of "read" is given frame 0
        return 1 if self.start == "step" else 0

    def _inputs(self, code, T):
        x = empty((T - 1 + self._zero_frames, len(code[0][0]), self.stack.layers[0].D), self.dtype)
        x[: self._zero_frames] = 0
        return x

    def _with_start(self, dcode, dstart):
        if dstart is not None:  # "read" also uses the top layer's h directly
            dcode[-1][0][...] += dstart
        return dcode

    @classmethod
    def sample(cls, rng):
        return cls.samples(rng)["conditional scheduled step"]

    @classmethod
    def samples(cls, rng):
        T, B, D, H = 5, 3, 4, 2
        mixed = rng.random((T, B)) < 0.5
        mixed[:, 0], mixed[:, 1] = True, False
        found = {}
        for start in STARTS:
            for name, conditional, feed_truth in (
                ("unconditional", False, False),
                ("conditional teacher-forced", True, True),
                ("conditional free-running", True, False),
                ("conditional scheduled", True, mixed),
            ):
                decoder = randomize(cls(D, H, 2, rng, conditional, start, dropout=0.3), rng)
                code = tuple(tuple(rng.standard_normal((2, B, H))) for _ in range(2))
                masks = (_kept(rng, T if start == "step" else T - 1, B, H),)
                truth = rng.random((T, B, D)) if conditional and feed_truth is not False else None
                found[f"{name} {start}"] = Sample(
                    decoder, (code, T, truth, feed_truth, masks), zeros={"truth": (T - 1,)}
                )
        return found


class EncoderDecoder(Layer, abstract=True):
    """An encoder and one or both decoders. The base of the three models of the paper.

    forward(past, future, T, feed_truth, masks) -> (reconstruction, prediction), logits or None
        past (Tp, B, D)     what the encoder sees
        future (T, B, D)    needed only where a conditional decoder is fed the truth
        T                   the number of frames to predict; len(future) by default
        feed_truth          one value for each decoder, or one for both; see Decoder
        masks               dropout masks (encoder, reconstruct, predict), or None: evaluation
    The reconstruction comes in reverse order: frame 0 is the LAST frame of the past.
    """

    reconstructs = predicts = True

    def __init__(
        self,
        D: int,
        H: int,
        layers: int,
        rng: np.random.Generator,
        conditional: str = "none",
        start: str = "step",
        loss: Loss | None = None,
        cell: type[Recurrent] = PeepholeLSTM,
        init: Init = PAPER_INIT,
        dropout: float = 0.0,
    ):
        if conditional not in ("none", "reconstruction", "future", "both"):
            raise ConfigError(
                f"expected conditional none, reconstruction, future or both, got {conditional!r}"
            )
        self.D = D
        self.loss = loss or BernoulliCrossEntropy()
        self.encoder = Encoder(D, H, layers, rng, cell, init, dropout)

        def decoder(is_conditional):
            return Decoder(D, H, layers, rng, is_conditional, start, self.loss, cell, init, dropout)

        self.reconstruct = self.predict = None
        if self.reconstructs:
            self.reconstruct = decoder(conditional in ("reconstruction", "both"))
        if self.predicts:
            self.predict = decoder(conditional in ("future", "both"))

    def forward(self, past, future=None, T=None, feed_truth=False, masks=None):
        expect("past", past, ("T", "B", self.D), self.dtype)
        if 0 in past.shape:
            raise ShapeError(f"expected past with T, B >= 1, got {past.shape}: give it a frame")
        T = len(future) if T is None and future is not None else T
        feed = feed_truth if isinstance(feed_truth, tuple) else (feed_truth, feed_truth)
        expect_entries("entries of feed_truth, one for each decoder", feed, 2)
        expect_entries("entries of masks, one for each stack", masks, 3)
        encoder_masks, reconstruct_masks, predict_masks = masks or (None, None, None)
        code, encoder_cache = self.encoder.forward(past, encoder_masks)
        caches, reconstruction, prediction = {}, None, None
        if self.reconstruct:
            reconstruction, caches["reconstruct"] = self.reconstruct.forward(
                code, len(past), past[::-1], feed[0], reconstruct_masks
            )
        if self.predict:
            prediction, caches["predict"] = self.predict.forward(
                code, T, future, feed[1], predict_masks
            )
        cache = Cache(encoder=encoder_cache, decoders=caches)
        return (reconstruction, prediction), cache

    def backward(self, doutputs, cache, want_dinputs=True):
        """(dreconstruction, dprediction) -> dpast, dfuture (or None), None, None, None.

        Without `want_dinputs` the first two are None: training needs no gradient of its data.
        """
        dreconstruction, dprediction = doutputs
        run = cache.consume()
        dcodes, dreversed, dfuture = [], None, None
        if dreconstruction is not None:
            dcode, _, dreversed, _, _ = self.reconstruct.backward(
                dreconstruction, run.decoders["reconstruct"], want_dinputs
            )
            dcodes.append(dcode)
        if dprediction is not None:
            dcode, _, dfuture, _, _ = self.predict.backward(
                dprediction, run.decoders["predict"], want_dinputs
            )
            dcodes.append(dcode)
        dpast, _ = self.encoder.backward(_added(dcodes), run.encoder, want_dinputs)
        if not want_dinputs:
            return None, None, None, None, None
        if dreversed is not None:  # the past was also fed back as truth, in reverse
            dpast += dreversed[::-1]
        return dpast, dfuture, None, None, None

    def rollout(self, past: np.ndarray, T: int) -> np.ndarray:
        """The T frames that follow `past` (Tp, B, ...), from the past alone, on the host."""
        if not self.predict:
            raise ConfigError("expected a model that predicts, got an autoencoder: train another")
        code, _ = self.encoder.forward(self._frames(past))
        logits, _ = self.predict.forward(code, T)
        return self._means(logits, past)

    def reconstruction(self, past: np.ndarray) -> np.ndarray:
        """`past` (Tp, B, ...) rebuilt from its code alone, in forward order, on the host."""
        if not self.reconstruct:
            raise ConfigError("expected a model that reconstructs, got a predictor: train another")
        code, _ = self.encoder.forward(self._frames(past))
        logits, _ = self.reconstruct.forward(code, len(past))
        return self._means(logits, past)[::-1]

    def _frames(self, past):
        shape, dtype = getattr(past, "shape", ()), getattr(past, "dtype", np.dtype(object))
        if len(shape) < 3 or 0 in shape or math.prod(shape[2:]) != self.D or dtype.kind != "f":
            raise ShapeError(
                f"expected past (T, B, ...) of floats with {self.D} pixels a frame, got {shape} "
                f"of {dtype}: divide bytes by 255, and put time first"
            )
        if not self.loss.allows(past):
            raise DataError(
                f"expected past within {self.loss.range}, got values from {past.min()} to "
                f"{past.max()}: divide bytes by 255, and look for NaN"
            )
        return asarray(past, self.dtype).reshape(*past.shape[:2], self.D)

    def _means(self, logits, past):
        mean = self.loss.mean(logits, out=xp.empty(logits.shape, logits.dtype))
        return to_numpy(mean).reshape(len(logits), *past.shape[1:])


class Autoencoder(EncoderDecoder):
    """Rebuilds the past from its code, last frame first. Slides: "Recurrent AutoEncoders?"."""

    predicts = False

    @classmethod
    def sample(cls, rng):
        return _model_sample(cls, rng, conditional="reconstruction", start="read")


class FuturePredictor(EncoderDecoder):
    """Continues the past from its code. Slides: "Predicting The Future"."""

    reconstructs = False

    @classmethod
    def sample(cls, rng):
        return _model_sample(cls, rng, conditional="future", start="read")


class Composite(EncoderDecoder):
    """Rebuilds the past and predicts the future from one code. Slides: "Composite model"."""

    @classmethod
    def sample(cls, rng):
        return _model_sample(cls, rng, conditional="both", start="step")

    @classmethod
    def samples(cls, rng):
        found = {
            f"{conditional} {start}": _model_sample(cls, rng, conditional, start, layers=layers)
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
        forced = _model_sample(cls, rng, feed_truth=True, **both)
        found["both step, teacher-forced"] = forced
        free = _model_sample(cls, rng, feed_truth=False, loss=SquaredError(), **both)
        found["both step, free-running, squared error"] = free
        return found


def _added(codes):
    """The gradients of several decoders ADD at the code: dh and dc, of every layer."""
    total, *others = codes
    for code in others:
        for layer_total, layer in zip(total, code, strict=True):
            for dstate_total, dstate in zip(layer_total, layer, strict=True):
                dstate_total += dstate
    return total


def _model_sample(cls, rng, conditional, start, feed_truth=None, loss=None, layers=2):
    T_past, T_future, B, D, H = 5, 6, 3, 4, 2
    model = randomize(cls(D, H, layers, rng, conditional, start, loss, dropout=0.3), rng)
    past, future = rng.random((T_past, B, D)), rng.random((T_future, B, D))
    if feed_truth is None:  # scheduled sampling: some frames true, some its own, at every step
        feed_truth = tuple(rng.random((T, B)) < 0.5 for T in (T_past, T_future))
        for mixed in feed_truth:
            mixed[:, 0], mixed[:, 1] = True, False
    if model.predict is None or not model.predict.conditional or feed_truth is False:
        future = None
    late = 1 if start == "step" else 0
    lengths = (T_past, T_past - 1 + late, T_future - 1 + late)
    masks = tuple((_kept(rng, T, B, H),) * (layers - 1) for T in lengths)
    inputs = (past, future, T_future, feed_truth, masks)
    return Sample(model, inputs, zeros={"future": (T_future - 1,)})


def _kept(rng, T, B, H):
    mask = rng.random((T, B, H)) < 0.7
    mask[:, 0] = True
    return mask
