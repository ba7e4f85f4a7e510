"""Forward and backward of a decoder whose inputs are its own outputs, frame by frame.

The inputs are not known before the first step: each predicted frame is the input of the next step.
The gradient takes the same path back. So every matrix product is computed for one step at a time.
The time steps may be cut into segments (segments.py). From one segment to the next the decoder
carries the state of its stack and its own last frame.

Paper: section 2.4, "Conditional Decoder". Scheduled sampling: Bengio et al. 2015 (arXiv
1506.03099). Read next: classifier.py.
"""

from __future__ import annotations

import copy

from ..backend import xp
from ..errors import ConfigError
from ..layers.layer import Cache
from ..layers.linear import affine, affine_dw, affine_dx
from ..layers.rnn import has_shared_loop
from ..layers.segments import Segments, part_of
from ..layers.workspace import empty, zeros

# Step s sees frame s - LAG. With start "step", step s sees frame s-1 and makes frame s. Frame -1 is
# a zero frame. With start "read", frame 0 needs no step: step s sees frame s and makes frame s+1.
LAG = {"step": 1, "read": 0}


def decoder_steps(start: str, T: int) -> int:
    """Return the number of steps for T frames: with start "read" the first frame needs none."""
    return T if start == "step" else T - 1


def forward(decoder, code, T, truth, feed_truth, masks):
    """Decode T frames, free-running or by scheduled sampling -> logits (T, B, D), cache.

    The arguments are those of `Decoder.forward`, already checked. feed_truth is False
    (free-running) or (T, B) of bool (scheduled sampling).
    """
    B, read = len(code[0][0]), decoder.start == "read"
    count = decoder_steps(decoder.start, T)
    decoder.stack.expect_masks(masks, count, B)
    if read:
        first, first_cache = decoder.readout.forward(code[-1][0][None])
        frame = decoder.loss.mean(first[0], out=empty(first[0].shape, decoder.dtype))
    else:
        first, first_cache = None, None
        frame = zeros((B, decoder.D), decoder.dtype)

    def run(steps, carried):
        return _forward_steps(decoder, truth, feed_truth, part_of(masks, steps), steps, carried)

    segments = Segments(decoder.stack.lengths, count, run)
    logits, _ = segments.forward((code, frame))
    if read:
        logits = xp.concatenate((first, logits))
    return logits, Cache(segments=segments, feed_truth=feed_truth, frame=frame, first=first_cache)


def backward(decoder, dlogits, cache, want_dtruth):
    """dlogits (T, B, D) -> dcode, dtruth (T, B, D) or None."""
    values, read = cache.consume(), decoder.start == "read"
    feed_truth = values.feed_truth
    want_dtruth = want_dtruth and feed_truth is not False
    dlogits_of_steps = dlogits[1:] if read else dlogits

    def run_backward(steps, dcarried, cache):
        dpart = dlogits_of_steps[steps]
        return _backward_steps(decoder, dpart, feed_truth, want_dtruth, steps, dcarried, cache)

    dfed, (dcode, dframe) = values.segments.backward(run_backward, None)
    if read:
        dfirst = zeros((1, *dlogits.shape[1:]), dlogits.dtype)
        dfirst += dlogits[:1]
        if dframe is not None:
            dfirst[0] += decoder.loss.mean_backward(dframe, values.frame)
        dcode[-1][0][...] += decoder.readout.backward(dfirst, values.first)[0]
    dtruth = None
    if want_dtruth:
        dtruth = zeros(dlogits.shape, dlogits.dtype)  # zero for the last frame, which no step sees
        dtruth[:-1] = dfed if read else dfed[1:]
    return dcode, dtruth


def _forward_steps(decoder, truth, feed_truth, masks, steps, carried):
    """Run a slice of the steps. `carried` is (state, own frame) before the slice.

    Returns the logits of the slice, (state, own frame) after it, cache.
    """
    state, frame = carried
    T, (B, D) = steps.stop - steps.start, frame.shape
    W, b = decoder.readout.W.value, decoder.readout.b.value
    x, logits, own = (empty((T, B, D), decoder.dtype) for _ in range(3))
    stack = StackByStep(decoder.stack, x, state, masks)
    for t in range(T):
        seen = steps.start + t - LAG[decoder.start]
        if seen < 0 or feed_truth is False:
            x[t] = frame
        else:
            x[t] = xp.where(feed_truth[seen][:, None], truth[seen], frame)
        affine(stack.step(t), W, b, out=logits[t])
        frame = decoder.loss.mean(logits[t], out=own[t])
    return logits, (stack.final_state(), frame), Cache(stack=stack, own=own)


def _backward_steps(decoder, dlogits, feed_truth, want_dtruth, steps, dcarried, cache):
    """Run the same slice back. dlogits are those of the slice.

    `dcarried` are the gradients of (state, own frame) after the slice, or None for zeros. Returns
    two things: the gradient of the true frames that the slice saw (None if it is not wanted), and
    the gradients of (state, own frame) before the slice.
    """
    dfinal, dframe = dcarried or (None, None)
    values = cache.consume()
    stack, own = values.stack, values.own
    dlogits_total = empty(own.shape, dlogits.dtype)
    dlogits_total[...] = dlogits
    dfed = zeros(own.shape, dlogits.dtype) if want_dtruth else None
    dy = empty(stack.y.shape[1:], dlogits.dtype)
    stack.begin_backward(dfinal)
    for t in reversed(range(len(own))):
        if dframe is not None:  # the gradient of this step's own frame, from the step that saw it
            dlogits_total[t] += decoder.loss.mean_backward(dframe, own[t])
        affine_dx(dlogits_total[t], decoder.readout.W.value, out=dy)
        dframe = stack.step_backward(t, dy)
        seen = steps.start + t - LAG[decoder.start]
        if seen >= 0 and feed_truth is not False:
            if want_dtruth:
                dfed[t] = dframe * feed_truth[seen][:, None]
            dframe *= ~feed_truth[seen][:, None]
    affine_dw(stack.y, dlogits_total, decoder.readout.W.grad, decoder.readout.b.grad)
    return dfed, (stack.end_backward(), dframe)


class StackByStep:
    """A stack that runs one step at a time, forward and back.

    x (T, B, D) are its inputs, which are filled in as they become known; state and masks are those
    of `Stack.forward`. `y` (T, B, H) are the outputs of the top layer.
    """

    def __init__(self, stack, x, state, masks):
        stack.expect_inputs(x, state, masks)
        for layer in stack.layers:
            if not has_shared_loop(type(layer)):
                raise ConfigError(
                    "expected a cell with the forward and backward of Recurrent, got "
                    f"{type(layer).__name__}, which has its own: move that code to step and "
                    "step_backward, or pass feed_truth=True"
                )
        self.layers, self.dropout, self.masks, self.runs = stack.layers, stack.dropout, masks, []
        for k, layer in enumerate(self.layers):
            if k > 0:
                x = empty((*x.shape[:2], layer.D), x.dtype)
            self.runs.append(layer.begin(x, state and state[k]))
        self.y = self.runs[-1].y

    def __deepcopy__(self, memo):  # of a cache, to run backward twice
        other = copy.copy(self)
        other.masks, other.runs = copy.deepcopy((self.masks, self.runs), memo)
        other.y = other.runs[-1].y
        # a layer is copied only with its model: the gradients of other copies would be lost
        other.layers = tuple(memo.get(id(layer), layer) for layer in self.layers)
        return other

    def step(self, t):
        """Run step t of all layers -> output (B, H) of the top layer."""
        for k, (layer, run) in enumerate(zip(self.layers, self.runs, strict=True)):
            if k > 0:
                run.x[t] = self.dropout.apply(self.runs[k - 1].y[t], self._mask(k, t))
            layer.project(run, slice(t, t + 1))
            layer.step(run, t)
        return self.y[t]

    def final_state(self):
        """Return the states of all layers after the last step."""
        return self._of_all_layers("final_state")

    def begin_backward(self, dfinal):
        """Start the gradients of the states of all layers: dfinal, or None for zeros."""
        for k, (layer, run) in enumerate(zip(self.layers, self.runs, strict=True)):
            layer.begin_backward(run, dfinal and dfinal[k])

    def step_backward(self, t, dy):
        """Run step t of all layers back. dy (B, H) of the top layer -> dx (B, D)."""
        for k in reversed(range(len(self.layers))):
            layer, run = self.layers[k], self.runs[k]
            layer.step_backward(run, t, dy)
            dy = layer.project_backward(run, slice(t, t + 1), want_dx=True)[0]
            if k > 0:
                dy = self.dropout.apply(dy, self._mask(k, t))
        return dy

    def end_backward(self):
        """Add to the gradients of all weights -> gradients of the start states."""
        for layer, run in zip(self.layers, self.runs, strict=True):
            run.end_loop()
            layer.accumulate(run)
        return self._of_all_layers("start_gradient")

    def _mask(self, k, t):
        return None if self.masks is None else self.masks[k - 1][t]

    def _of_all_layers(self, method):
        return tuple(
            getattr(layer, method)(run) for layer, run in zip(self.layers, self.runs, strict=True)
        )
