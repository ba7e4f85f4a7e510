"""Logistic regression: one linear layer and a softmax, minimised to convergence.

It is the baseline without an LSTM: of single frames (the first row of the paper's Table 1), of the
mean frame of a clip, or of the size and length of a clip. Given the hidden states of an encoder in
place of frames, it is the classifier of a frozen encoder.

The layer is that of linear.py, the loss that of losses.py. SciPy's L-BFGS uses their gradient.

Paper: Table 1. Read next: training/classifier.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..backend import use_backend
from ..data.clips import expect_labels
from ..data.vectors import scale_of
from ..layers.init import Blank
from ..layers.linear import Linear, affine_dw
from ..layers.losses import SoftmaxCrossEntropy
from ..layers.workspace import Fresh, use_workspace

STRENGTHS = (100.0, 10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)  # of L2, tried from the left
MAX_STEPS = 100  # of L-BFGS


class Logistic(NamedTuple):
    """A fitted classifier: softmax((x - mean) / std W + b)."""

    mean: np.ndarray
    std: np.ndarray
    readout: Linear

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Return the probabilities (N, K) for x (N, D) on the host."""
        with use_backend("numpy", "float32"), use_workspace(Fresh()):
            logits, _ = self.readout.forward(_standardised(x, self.mean, self.std))
            return SoftmaxCrossEntropy().mean(logits, out=logits)[0]

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """Return W (D, K) and b (K,) of the same function written as softmax(x W + b)."""
        W = self.readout.W.value / self.std[:, None]
        return W, self.readout.b.value - self.mean @ W


def fit_logistic(x: np.ndarray, labels: np.ndarray, K: int, l2: float, start=None) -> Logistic:
    """Minimise the mean cross-entropy + l2/2 |W|^2 for x (N, D), labels (N,) of K classes.

    Every column is brought to mean 0 and variance 1 first, so that one `l2` suits them all. `start`
    is another fit of the same x and only saves time. In float32, on the host. Raises DataError for
    labels that are no class.
    """
    expect_labels(labels, K)
    from scipy.optimize import minimize

    scale = scale_of(x)
    mean, std = scale.mean, scale.std
    z, target = _standardised(x, mean, std), labels[None]
    with use_backend("numpy", "float32"), use_workspace(Fresh()):
        readout, loss = (
            Linear(z.shape[2], K, np.random.default_rng(0), Blank()),
            SoftmaxCrossEntropy(),
        )
        flat, W = readout.flat(), readout.W

        def objective(w):
            flat.value[...] = w
            flat.grad.fill(0)
            logits, _ = readout.forward(z)
            nats, loss_cache = loss.forward(logits, target)
            dlogits, _ = loss.backward(1.0, loss_cache)
            affine_dw(z, dlogits, W.grad, readout.b.grad)  # the gradient of z is not needed
            W.grad += np.float32(l2) * W.value
            return float(nats) + 0.5 * l2 * float((W.value**2).sum()), flat.grad.astype(float)

        w = start.readout.flat().value if start else flat.value
        flat.value[...] = minimize(
            objective, w, jac=True, method="L-BFGS-B", options={"maxiter": MAX_STEPS}
        ).x
    return Logistic(mean, std, readout)


def choose_logistic(
    x: np.ndarray, labels: np.ndarray, K: int, nats: Callable[[Logistic], float]
) -> Logistic:
    """Fit with weaker and weaker L2 as long as the validation loss falls. Return the best fit.

    `nats(fit)` is the loss of a fit on validation data.
    """
    best = fit_logistic(x, labels, K, STRENGTHS[0])
    least = nats(best)
    for l2 in STRENGTHS[1:]:
        fit = fit_logistic(x, labels, K, l2, start=best)
        cost = nats(fit)
        if cost >= least:
            break
        best, least = fit, cost
    return best


def _standardised(x, mean, std):
    return ((x - mean) / std).astype(np.float32)[None]
