"""The pass of a decoder that feeds on its own output, frame by frame.

Its inputs can't be known beforehand: frame t goes into step t+1, and the gradient comes back the
same way. So every product is made step by step. From one segment to the next the decoder carries
the state of its stack and its own last frame.

Paper: section 2.4, "Conditional Decoder". Scheduled sampling: Bengio et al. 2015 (arXiv
1506.03099). Read next: classifier.py.
"""

from __future__ import annotations

from functools import partial

from ..backend import xp
from ..layers.layer import Cache
from ..layers.linear import affine, affine_dw, affine_dx
from ..layers.segments import Segments
from ..layers.stack import part_of
from ..layers.workspace import empty, zeros


def forward(decoder, code, T, truth, feed_truth, masks):
    """Decode T frames of which not all are fed the truth. -> logits (T, B, D), cache.

    The arguments are those of `Decoder.forward`, checked; feed_truth is False or (T, B) of bool.
    """
    early, B = _frames_without_a_step(decoder), len(code[0][0])
    decoder.stack.expect_masks(masks, T - early, B)
    first, readout_cache = None, None
    frame = zeros((B, decoder.D), decoder.dtype)
    if early:
        first, readout_cache = decoder.readout.forward(code[-1][0][None])
        frame = decoder.loss.mean(first[0], out=empty(first[0].shape, decoder.dtype))
    run = partial(_forward_steps, decoder, truth, feed_truth, masks)
    segments = Segments(decoder.stack.unrolling, T - early, run)
    logits, _ = segments.forward((code, frame))
    if early:
        logits = xp.concatenate((first, logits))
    return logits, Cache(segments=segments, feed_truth=feed_truth, frame=frame, first=readout_cache)


def backward(decoder, dlogits, cache, want_dtruth):
    """dlogits (T, B, D) -> dcode, dtruth (T, B, D) or None."""
    run, early = cache.consume(), _frames_without_a_step(decoder)
    want_dtruth = want_dtruth and run.feed_truth is not False
    run_backward = partial(_backward_steps, decoder, dlogits[early:], run.feed_truth, want_dtruth)
    dfed, (dcode, dframe) = run.segments.backward(run_backward, None)
    if early:
        dfirst = zeros((1, *dlogits.shape[1:]), dlogits.dtype)
        dfirst += dlogits[:1]
        if dframe is not None:
            dfirst[0] += decoder.loss.mean_backward(dframe, run.frame)
        dcode[-1][0][...] += decoder.readout.backward(dfirst, run.first)[0]
    dtruth = None
    if want_dtruth:
        dtruth = zeros(dlogits.shape, dlogits.dtype)  # zero for the last frame, which no step sees
        dtruth[:-1] = dfed if early else dfed[1:]
    return dcode, dtruth


def _forward_steps(decoder, truth, feed_truth, masks, steps, carried):
    """A slice of the steps, from (state, own frame before) -> logits, the same after, cache."""
    state, frame = carried
    T, (B, D) = steps.stop - steps.start, frame.shape
    W, b = decoder.readout.W.value, decoder.readout.b.value
    x, logits, own = (empty((T, B, D), decoder.dtype) for _ in range(3))
    runs = decoder.stack.begin(x, state, part_of(masks, steps))
    for t in range(T):
        fed = _frame_seen(decoder, steps.start + t)
        if fed < 0 or feed_truth is False:
            x[t] = frame
        else:
            x[t] = xp.where(feed_truth[fed][:, None], truth[fed], frame)
        affine(decoder.stack.step(runs, t), W, b, out=logits[t])
        frame = decoder.loss.mean(logits[t], out=own[t])
    return logits, (decoder.stack.final_state(runs), frame), Cache(runs=runs, own=own)


def _backward_steps(decoder, dlogits, feed_truth, want_dtruth, steps, dcarried, cache):
    """The same slice -> gradients of the true frames fed, and of (state, own frame before)."""
    dfinal, dframe = dcarried or (None, None)
    run = cache.consume()
    T = len(run.own)
    dlogits_total = empty(run.own.shape, dlogits.dtype)
    dlogits_total[...] = dlogits[steps]
    dfed = zeros(run.own.shape, dlogits.dtype) if want_dtruth else None
    y = run.runs[-1].y
    dy = empty(y.shape[1:], y.dtype)
    decoder.stack.begin_backward(run.runs, dfinal)
    for t in reversed(range(T)):
        if dframe is not None:  # the gradient of this step's frame, from the next step
            dlogits_total[t] += decoder.loss.mean_backward(dframe, run.own[t])
        affine_dx(dlogits_total[t], decoder.readout.W.value, out=dy)
        dframe = decoder.stack.step_backward(run.runs, t, dy)
        fed = _frame_seen(decoder, steps.start + t)
        if fed >= 0 and feed_truth is not False:
            if want_dtruth:
                dfed[t] = dframe * feed_truth[fed][:, None]
            dframe *= ~feed_truth[fed][:, None]
    affine_dw(y, dlogits_total, decoder.readout.W.grad, decoder.readout.b.grad)
    return dfed, (decoder.stack.end_backward(run.runs), dframe)


def _frames_without_a_step(decoder):
    return 1 if decoder.start == "read" else 0


def _frame_seen(decoder, step):
    """The number of the frame that a step sees; -1 is the zero frame before the first."""
    return step + _frames_without_a_step(decoder) - 1
