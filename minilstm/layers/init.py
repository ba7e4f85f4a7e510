"""Draw the first values of parameters.

Paper: section 3.1. Read next: linear.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..backend import current_backend, xp
from ..errors import ConfigError
from .layer import Param


@dataclass(frozen=True)
class Init:
    """How parameters start.

    weights          "fan-in": uniform in +-1/sqrt(number of inputs), as in the paper;
                     "uniform": uniform in +-scale, as in both public releases;
                     "weak-recurrence": fan-in, and a fifth of it for the recurrence: at first a
                     step listens to its input, and what to hear of the last step is learned
    peephole_scale   peepholes are uniform in +-peephole_scale
    forget_bias      the bias of the forget gate; all other biases are zero
    """

    weights: str = "fan-in"
    scale: float = 0.01
    peephole_scale: float = 0.0
    forget_bias: float = 0.0

    def __post_init__(self):
        if self.weights not in ("fan-in", "uniform", "weak-recurrence"):
            raise ConfigError(
                "expected weights fan-in, uniform or weak-recurrence, got "
                f"{self.weights!r}: choose one"
            )

    def weight(self, rng: np.random.Generator, rows: int, columns: int) -> Param:
        """A (rows, columns) matrix that maps `rows` inputs to `columns` outputs."""
        if rows < 0 or columns < 1:
            raise ConfigError(
                f"expected at least 0 inputs and 1 output of a weight, got {rows} and {columns}: "
                "make the layer larger"
            )
        bound = self.scale if self.weights == "uniform" else max(rows, 1) ** -0.5
        return Param(rng.uniform(-bound, bound, (rows, columns)))

    def input_weight(self, rng: np.random.Generator, D: int, columns: int) -> Param:
        """The (D, columns) matrix of a layer's inputs, drawn from a generator of its own.

        So all other draws are the same with inputs of any width, or none.
        """
        return self.weight(rng.spawn(1)[0], D, columns)

    def recurrent(self, rng: np.random.Generator, H: int, gates: int = 1) -> Param:
        """An (H, gates*H) matrix that maps a hidden state to the pre-activations of the next."""
        param = self.weight(rng, H, gates * H)
        self.weaken(param.value)
        return param

    def weaken(self, recurrence: np.ndarray) -> None:
        """Scale in place what a hidden state enters the next step by, if `weights` says so."""
        if self.weights == "weak-recurrence":
            recurrence *= 0.2

    def peepholes(self, rng: np.random.Generator, H: int) -> Param:
        """The (3, H) peepholes of the input, forget and output gates."""
        return Param(rng.uniform(-self.peephole_scale, self.peephole_scale, (3, H)))

    def bias(self, K: int) -> Param:
        """(K,) zeros."""
        return Param(np.zeros(K), decayed=False)

    def gate_bias(self, H: int) -> Param:
        """The (4H,) biases of the gates i f g o."""
        bias = np.zeros((4, H))
        bias[1] = self.forget_bias
        return Param(bias.ravel(), decayed=False)


class Blank(Init):
    """All zero, on pages of memory that nobody has touched: to ask a model for its size."""

    def weight(self, rng, rows, columns):
        return Param(xp.zeros((rows, columns), current_backend().dtype))


PAPER_INIT = Init()
