"""The models of the paper: an encoder, and decoders that start from its code.

    Autoencoder         encoder -> decoder that rebuilds the past, in REVERSE order
    FuturePredictor     encoder -> decoder that continues the past
    Composite           one encoder -> both

Models return logits; the loss is a layer of its own (losses.py).

Slides: "Recurrent AutoEncoders?", "Recurrent Encoder-Decoder", "Predicting The Future". Paper:
section 2. Read next: training/step.py, then feedback.py and classifier.py.
"""

from __future__ import annotations

import math

import numpy as np

from ..backend import asarray, to_numpy, xp
from ..errors import ConfigError, DataError, ShapeError
from ..gpu.side_by_side import joined, side_by_side
from ..layers.init import PAPER_INIT, Init, expect_generator
from ..layers.layer import Cache, Layer, expect, expect_entries
from ..layers.losses import BernoulliCrossEntropy, Loss
from ..layers.lstm import PeepholeLSTM
from ..layers.rnn import Recurrent
from ..layers.segments import SegmentLengths
from . import samples
from .decoder import Decoder
from .encoder import Encoder


class EncoderDecoder(Layer, abstract=True):
    """An encoder and one or both decoders. The base of the three models of the paper.

    forward(past, future, T, feed_truth, masks) -> (reconstruction, prediction), logits or None
        past (Tp, B, D)     the frames that the encoder sees
        future (T, B, D)    needed only if a conditional decoder is fed the truth
        T                   the number of frames to predict; len(future) by default
        feed_truth          one value for each decoder, or one for both; see Decoder
        masks               dropout masks (encoder, reconstruct, predict); None in evaluation
    The reconstruction comes in reverse order: frame 0 is the LAST frame of the past.

    Raises ConfigError for an unknown `conditional`, ShapeError for inputs that do not fit.
    """

    output_names = ("reconstruction", "future")  # of the two outputs, in losses and logs
    reconstructs = predicts = True  # which decoders the model has

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
        expect_generator(rng)
        self.D = D
        loss = loss or BernoulliCrossEntropy()
        # one generator for each part, so that the same part of two models has the same weights
        encode_rng, reconstruct_rng, predict_rng = rng.spawn(3)
        self.encoder = Encoder(D, H, layers, encode_rng, cell, init, dropout)

        def decoder(rng, conditional):
            return Decoder(
                D, H, layers, rng, conditional,
                start=start, loss=loss, cell=cell, init=init, dropout=dropout,
            )  # fmt: skip

        self.reconstruct = self.predict = None
        if self.reconstructs:
            self.reconstruct = decoder(reconstruct_rng, conditional in ("reconstruction", "both"))
        if self.predicts:
            self.predict = decoder(predict_rng, conditional in ("future", "both"))

    @property
    def decoders(self) -> dict[str, Decoder]:
        """The decoders that the model has, by the names of their outputs."""
        both = zip(self.output_names, (self.reconstruct, self.predict), strict=True)
        return {name: decoder for name, decoder in both if decoder}

    @property
    def loss(self) -> Loss:
        """The loss, whose `mean` makes frames of logits. Setting it sets that of all decoders."""
        return next(iter(self.decoders.values())).loss

    @loss.setter
    def loss(self, loss: Loss) -> None:
        for decoder in self.decoders.values():
            decoder.loss = loss

    def set_segments(self, recompute: int = 0, tbptt: int = 0) -> None:
        """Recompute every stack in segments, or truncate its gradient.

        `recompute` and `tbptt` are lengths in time steps. 0 switches off. See segments.py. With
        truncation the gradient of the code reaches only the last window of the encoder. If a
        decoder's own frame is the input of the next window, its gradient is not passed back.
        """
        for stack in (self.encoder, *(decoder.stack for decoder in self.decoders.values())):
            stack.lengths = SegmentLengths(recompute, tbptt)

    def forward(self, past, future=None, T=None, feed_truth=False, masks=None):
        """past (Tp, B, D) -> (reconstruction (Tp, B, D), prediction (T, B, D)), cache."""
        expect("past", past, ("T", "B", self.D), self.dtype)
        if 0 in past.shape:
            raise ShapeError(f"expected past with T, B >= 1, got {past.shape}: give it a frame")
        T = len(future) if T is None and future is not None else T
        feed = feed_truth if isinstance(feed_truth, tuple) else (feed_truth, feed_truth)
        expect_entries("entries of feed_truth, one for each decoder", feed, 2)
        expect_entries("entries of masks, one for each stack", masks, 3)
        encoder_masks, reconstruct_masks, predict_masks = masks or (None, None, None)
        code, encoder_cache = self.encoder.forward(past, encoder_masks)
        decode = {}
        if self.reconstruct:
            decode["reconstruct"] = lambda: self.reconstruct.forward(
                code, len(past), past[::-1], feed[0], reconstruct_masks
            )
        if self.predict:
            decode["predict"] = lambda: self.predict.forward(
                code, T, future, feed[1], predict_masks
            )
        logits, caches = {}, {}
        for name, found in side_by_side(decode).items():
            logits[name], caches[name] = found
        cache = Cache(encoder=encoder_cache, decoders=caches)
        return (logits.get("reconstruct"), logits.get("predict")), cache

    @joined()
    def backward(self, doutputs, cache, want_dinputs=True):
        """(dreconstruction, dprediction) -> dpast (Tp, B, D), dfuture or None, None, None, None.

        Without `want_dinputs` the first two are None, because training needs no gradient of its
        data.
        """
        expect_entries("gradients, one for each decoder", doutputs, 2)
        dreconstruction, dprediction = doutputs
        values = cache.consume()
        decode_back = {}
        if dreconstruction is not None:
            decode_back["reconstruct"] = lambda: self.reconstruct.backward(
                dreconstruction, values.decoders["reconstruct"], want_dinputs
            )
        if dprediction is not None:
            decode_back["predict"] = lambda: self.predict.backward(
                dprediction, values.decoders["predict"], want_dinputs
            )
        if not decode_back or decode_back.keys() - values.decoders.keys():
            raise ShapeError(
                f"expected gradients of {' or '.join(values.decoders)}, got gradients of "
                f"{' and '.join(decode_back) or 'none'}: pass None for others"
            )
        dcodes, dtruths = [], {}
        for name, (dcode, _, dtruth, _, _) in side_by_side(decode_back).items():
            dcodes.append(dcode)
            dtruths[name] = dtruth
        dpast, _ = self.encoder.backward(_added(dcodes), values.encoder, want_dinputs)
        if not want_dinputs:
            return None, None, None, None, None
        dreversed, dfuture = dtruths.get("reconstruct"), dtruths.get("predict")
        if dreversed is not None:  # the past was also the decoder's truth, in reverse order
            dpast += dreversed[::-1]
        return dpast, dfuture, None, None, None

    def targets(self, past, future):
        """Return the true frames for the two outputs of `forward`: None for a missing decoder.

        past (Tp, B, D) in reverse order for the reconstruction, future (T, B, D) for the
        prediction.
        """
        return past[::-1] if self.reconstruct else None, future if self.predict else None

    @staticmethod
    def in_forward_order(outputs):
        """Return (reconstruction, prediction) with the first frame first in both.

        `outputs` are two arrays in the order of `forward`, of logits or of frames. One may be None.
        """
        reconstruction, prediction = outputs
        return None if reconstruction is None else reconstruction[::-1], prediction

    def rollout(self, past: np.ndarray, T: int) -> np.ndarray:
        """Predict the T frames (T, B, ...) after `past` (Tp, B, ...), free-running, on the host.

        Raises ConfigError for an autoencoder, ShapeError or DataError for a past that does not fit.
        """
        if not self.predict:
            raise ConfigError("expected a model that predicts, got an autoencoder: train another")
        code, _ = self.encoder.forward(self._frames(past))
        logits, _ = self.predict.forward(code, T)
        return self._means(logits, past)

    def reconstruction(self, past: np.ndarray) -> np.ndarray:
        """Rebuild `past` (Tp, B, ...) from its code alone, in forward order, on the host.

        Raises ConfigError for a predictor, ShapeError or DataError for a past that does not fit.
        """
        if not self.reconstruct:
            raise ConfigError("expected a model that reconstructs, got a predictor: train another")
        code, _ = self.encoder.forward(self._frames(past))
        logits, _ = self.reconstruct.forward(code, len(past))
        reconstruction, _ = self.in_forward_order((self._means(logits, past), None))
        return reconstruction

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


class Autoencoder(EncoderDecoder, sample=samples.autoencoder):
    """Rebuild the past from its code, last frame first. Slides: "Recurrent AutoEncoders?"."""

    predicts = False


class FuturePredictor(EncoderDecoder, sample=samples.predictor):
    """Continue the past from its code. Slides: "Predicting The Future"."""

    reconstructs = False


class Composite(EncoderDecoder, sample=samples.composite, variants=samples.composites):
    """Rebuild the past and predict the future from one code. Slides: "Composite model"."""


def _added(codes):
    """Add the decoders' gradients of the code, dh and dc of every layer. Return the sum."""
    total, *others = codes
    for code in others:
        for layer_total, layer in zip(total, code, strict=True):
            for dstate_total, dstate in zip(layer_total, layer, strict=True):
                dstate_total += dstate
    return total
