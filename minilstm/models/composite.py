"""The models of the paper: an encoder LSTM, and decoder LSTMs that start from its final state.

    Autoencoder         encoder -> decoder that rebuilds the past, in REVERSE order
    FuturePredictor     encoder -> decoder that continues the past
    Composite           one encoder -> both
    Classifier          encoder -> the class, at every step

Models return logits; the loss is a layer of its own (losses.py) and tells a free-running decoder
the mean frame that its logits stand for.

Slides: "Recurrent AutoEncoders?", "Recurrent Encoder-Decoder", "Predicting The Future", "Transfer
Learning for Action Recognition". Paper: sections 2 and 4. Read next: step.py, then classify.py.
"""

from __future__ import annotations

import copy
import math
from functools import partial

import numpy as np

from ..backend import asarray, to_numpy, xp
from ..errors import ConfigError, DataError, ShapeError
from ..layers.dropout import Dropout
from ..layers.layer import PAPER_INIT, Cache, Init, Layer, Sample, expect, expect_entries, randomize
from ..layers.linear import Linear, affine, affine_dw, affine_dx
from ..layers.losses import BernoulliCrossEntropy, Loss, SoftmaxCrossEntropy, SquaredError
from ..layers.lstm import PeepholeLSTM
from ..layers.rnn import Recurrent
from ..layers.segments import Segments, Unrolling
from ..layers.stack import Stack, part_of
from ..layers.workspace import empty, zeros

STARTS = ("step", "read")


def decoder_steps(start: str, T: int) -> int:
    """How many steps a decoder makes for T frames: "read" has the first one without a step."""
    return T if start == "step" else T - 1


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
        code              the state to start from: one tuple of (B, H) arrays per layer
        truth (T, B, D)   the frames that the decoder should produce
        feed_truth        True: step t sees the TRUE frame t-1 (teacher forcing); False: its OWN
                          mean frame (free-running); (T, B) of bool: chosen for every frame fed,
                          index t-1 for the frame that step t sees (scheduled sampling)
        masks             one (T, B, H) of bool per gap between layers, where `start` is "read"
                          (T-1, B, H); None: evaluation
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
        expect("dlogits", dlogits, run.shape, self.dtype)
        if hasattr(run, "segments"):
            return self._backward_stepwise(dlogits, run, want_dtruth)
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
        if isinstance(feed_truth, bool | np.bool_):
            feed_truth = bool(feed_truth)
        else:
            expect("feed_truth", feed_truth, (T, B), bool)
        if feed_truth is not False:
            expect("truth", truth, (T, B, self.D), self.dtype)
        return feed_truth

    # A decoder that feeds on its own output can't know its inputs beforehand: frame by frame,
    # output t -> input t+1, and back again in the opposite order. From one segment to the next it
    # carries the state of the stack and its own last frame.

    def _forward_stepwise(self, code, T, truth, feed_truth, masks):
        steps, B = decoder_steps(self.start, T), len(code[0][0])
        self.stack.expect_masks(masks, steps, B)
        frame, first, readout_cache = zeros((B, self.D), self.dtype), None, None
        if self.start == "read":
            first, readout_cache = self.readout.forward(code[-1][0][None])
            frame = self._loss.mean(first[0], out=empty(first[0].shape, self.dtype))
        run = partial(self._forward_steps, truth, feed_truth, masks)
        segments = Segments(self.stack.unrolling, steps, run)
        logits, _ = segments.forward((code, frame))
        if first is not None:
            logits = xp.concatenate((first, logits))
        return logits, Cache(
            segments=segments, feed_truth=feed_truth,
            frame=frame, readout=readout_cache, shape=logits.shape,
        )  # fmt: skip

    def _backward_stepwise(self, dlogits, run, want_dtruth):
        want_dtruth = want_dtruth and run.feed_truth is not False
        made = dlogits[1 - self._zero_frames :]  # by the steps; "read" has frame 0 without a step
        run_backward = partial(self._backward_steps, made, run.feed_truth, want_dtruth)
        dfed, (dcode, dframe) = run.segments.backward(run_backward, None)
        dstart, dtruth = None, None
        if self.start == "read":
            dfirst = zeros((1, *dlogits.shape[1:]), dlogits.dtype)
            dfirst += dlogits[:1]
            if dframe is not None:
                dfirst[0] += self._loss.mean_backward(dframe, run.frame)
            dstart = self.readout.backward(dfirst, run.readout)[0]
        if want_dtruth:
            dtruth = zeros(run.shape, dlogits.dtype)
            dtruth[:-1] = dfed[self._zero_frames :]
        return self._with_start(dcode, dstart), None, dtruth, None, None

    def _forward_steps(self, truth, feed_truth, masks, steps, carried):
        """A slice of the steps, from (state, own frame before) -> logits, the same after, cache."""
        state, frame = carried
        T, (B, D) = steps.stop - steps.start, frame.shape
        W, b = self.readout.W.value, self.readout.b.value
        x, logits, own = (empty((T, B, D), self.dtype) for _ in range(3))
        runs = self.stack.begin(x, state, part_of(masks, steps))
        for t in range(T):
            fed = steps.start + t - self._zero_frames  # the number of the frame this step sees
            if fed < 0 or feed_truth is False:
                x[t] = frame
            else:
                x[t] = xp.where(feed_truth[fed][:, None], truth[fed], frame)
            affine(self.stack.step(runs, t), W, b, out=logits[t])
            frame = self._loss.mean(logits[t], out=own[t])
        return logits, (self.stack.final_state(runs), frame), Cache(runs=runs, own=own)

    def _backward_steps(self, dlogits, feed_truth, want_dtruth, steps, dcarried, cache):
        """The same slice -> gradients of the true frames fed, and of (state, own frame before)."""
        dfinal, dframe = dcarried or (None, None)
        run = cache.consume()
        T = len(run.own)
        dlogits_total = empty(run.own.shape, dlogits.dtype)
        dlogits_total[...] = dlogits[steps]
        dfed = zeros(run.own.shape, dlogits.dtype) if want_dtruth else None
        y = run.runs[-1].y
        dy = empty(y.shape[1:], y.dtype)
        self.stack.begin_backward(run.runs, dfinal)
        for t in reversed(range(T)):
            if dframe is not None:  # of this step's frame, by way of the next step
                dlogits_total[t] += self._loss.mean_backward(dframe, run.own[t])
            affine_dx(dlogits_total[t], self.readout.W.value, out=dy)
            dframe = self.stack.step_backward(run.runs, t, dy)
            fed = steps.start + t - self._zero_frames
            if fed >= 0 and feed_truth is not False:
                if want_dtruth:
                    dfed[t] = dframe * feed_truth[fed][:, None]
                dframe *= ~feed_truth[fed][:, None]
        affine_dw(y, dlogits_total, self.readout.W.grad, self.readout.b.grad)
        return dfed, (self.stack.end_backward(run.runs), dframe)

    @property
    def _zero_frames(self):
        # "step" is given a zero frame before frame 0; the first step of "read" is given frame 0
        return 1 if self.start == "step" else 0

    def _inputs(self, code, T):
        steps, B = decoder_steps(self.start, T), len(code[0][0])
        x = empty((steps, B, self.stack.layers[0].D), self.dtype)
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
                masks = (_kept(rng, decoder_steps(start, T), B, H),)
                truth = rng.random((T, B, D)) if conditional and feed_truth is not False else None
                found[f"{name} {start}"] = Sample(
                    decoder, (code, T, truth, feed_truth, masks), zeros={"truth": (T - 1,)}
                )
                if start == "read" or name == "conditional scheduled":
                    recomputed = copy.deepcopy(found[f"{name} {start}"])
                    recomputed.layer.stack.unrolling = Unrolling(recompute=2)
                    found[f"{name} {start}, recompute=2"] = recomputed
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
        # a generator for each part: models with the same part start it from the same weights
        encode_rng, reconstruct_rng, predict_rng = rng.spawn(3)
        self.encoder = Encoder(D, H, layers, encode_rng, cell, init, dropout)

        def decoder(rng, conditional):
            return Decoder(D, H, layers, rng, conditional, start, self.loss, cell, init, dropout)

        self.reconstruct = self.predict = None
        if self.reconstructs:
            self.reconstruct = decoder(reconstruct_rng, conditional in ("reconstruction", "both"))
        if self.predicts:
            self.predict = decoder(predict_rng, conditional in ("future", "both"))

    def set_unrolling(self, recompute: int = 0, tbptt: int = 0) -> None:
        """Unroll every stack in segments of K steps, to save memory or truncate; 0 is off.

        See segments.py. Truncated, the gradient that the decoders send into the code reaches the
        last window of the encoder, and the frames that a decoder feeds itself carry none across.
        """
        decoders = (self.reconstruct, self.predict)
        for stack in (self.encoder, *(decoder.stack for decoder in decoders if decoder)):
            stack.unrolling = Unrolling(recompute, tbptt)

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
        recomputed = _model_sample(cls, rng, "both", "step", layers=2)
        recomputed.layer.set_unrolling(recompute=2)
        found["both step, recompute=2"] = recomputed
        return found


class Classifier(Layer):
    """Says at every step which class the frames so far belong to, as logits.

    x (T, B, D), masks (one of (T, B, H) for each gap between layers, and one for the readout's
    input) or None: evaluation -> logits (T, B, K).

    The loss is that of every step. Slides: "Transfer Learning for Action Recognition" (Fig 11).
    """

    def __init__(
        self,
        D: int,
        H: int,
        layers: int,
        K: int,
        rng: np.random.Generator,
        cell: type[Recurrent] = PeepholeLSTM,
        init: Init = PAPER_INIT,
        dropout: float = 0.0,
    ):
        self.loss = SoftmaxCrossEntropy()
        self.encoder = Stack(D, H, layers, rng, cell, init, dropout)
        self.dropout = Dropout(dropout)
        self.readout = Linear(H, K, rng, init)

    def forward(self, x, masks=None):
        expect_entries("dropout masks, one for each layer", masks, len(self.encoder.layers))
        (y, _), encoder_cache = self.encoder.forward(x, None, masks and masks[:-1])
        y, dropout_cache = self.dropout.forward(y, masks and masks[-1])
        logits, readout_cache = self.readout.forward(y)
        return logits, Cache(encoder=encoder_cache, dropout=dropout_cache, readout=readout_cache)

    def backward(self, dlogits, cache, want_dx=True):
        run = cache.consume()
        dy = self.readout.backward(dlogits, run.readout)
        dy, _ = self.dropout.backward(dy, run.dropout)
        dx, _, _ = self.encoder.backward((dy, None), run.encoder, want_dx)
        return dx, None

    @classmethod
    def sample(cls, rng):
        T, B, D, H, K = 5, 3, 4, 2, 6
        classifier = randomize(cls(D, H, 2, K, rng, dropout=0.3), rng)
        masks = _kept(rng, T, B, H), _kept(rng, T, B, H)
        return Sample(classifier, (rng.standard_normal((T, B, D)), masks))


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
    lengths = (T_past, decoder_steps(start, T_past), decoder_steps(start, T_future))
    masks = tuple((_kept(rng, T, B, H),) * (layers - 1) for T in lengths)
    inputs = (past, future, T_future, feed_truth, masks)
    return Sample(model, inputs, zeros={"future": (T_future - 1,)})


def _kept(rng, T, B, H):
    mask = rng.random((T, B, H)) < 0.7
    mask[:, 0] = True
    return mask
