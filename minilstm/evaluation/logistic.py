"""Logistic regression: one linear layer and a softmax, minimised to the end.

What can be told without an LSTM: from single frames (the first row of the paper's Table 1), from
the mean of a clip's frames, or from the size and the length of a clip alone. And, given the hidden
states of an encoder in place of frames, a frozen encoder's classifier.

The layer is linear.py's, the loss losses.py's; their analytic gradient goes to SciPy's L-BFGS.

Paper: section 4, Table 1. Read next: training/classifier.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..backend import use_backend
from ..data.vectors import scale_of
from ..layers.init import Blank
from ..layers.linear import Linear, affine_dw
from ..layers.losses import SoftmaxCrossEntropy
from ..layers.workspace import Fresh, use_workspace

STRENGTHS = (100.0, 10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)  # of L2, to choose from
MAX_STEPS = 100  # of L-BFGS, at most


class Logistic(NamedTuple):
    """softmax((x - mean) / std W + b)"""

    mean: np.ndarray
    std: np.ndarray
    readout: Linear

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """x (N, D) on the host -> probabilities (N, K)."""
        with use_backend("numpy", "float32"), use_workspace(Fresh()):
            logits, _ = self.readout.forward(_standardised(x, self.mean, self.std))
            return SoftmaxCrossEntropy().mean(logits, out=logits)[0]

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """W (D, K), b (K,) of the same function of x itself."""
        W = self.readout.W.value / self.std[:, None]
        return W, self.readout.b.value - self.mean @ W


def fit_logistic(x: np.ndarray, labels: np.ndarray, K: int, l2: float, start=None) -> Logistic:
    """Minimise the mean cross-entropy + l2/2 |W|^2 for x (N, D), labels (N,) of K classes.

    Every column is brought to mean 0 and variance 1 first, so that one `l2` suits them all.
    `start`, another fit of the same x, only saves time. In float32, on the host.
    """
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
            affine_dw(z, dlogits, W.grad, readout.b.grad)  # nobody needs the gradient of z
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
    """The fit whose L2 suits best: as strong as can be at first, then weaker, while that helps.

    `nats(fit)` says what a fit costs on validation data.
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
