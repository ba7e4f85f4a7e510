"""The initial values of parameters.

Paper: section 3.1. Read next: linear.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..backend import current_backend, xp
from ..errors import ConfigError, whole_number
from .layer import Param


@dataclass(frozen=True)
class Init:
    """The distribution that parameters are drawn from.

    weights          "fan-in": uniform in +-1/sqrt(number of inputs), as in the paper;
                     "uniform": uniform in +-scale, as in both releases of the authors' code;
                     "weak-recurrence": fan-in, and a fifth of it for the recurrent weights, so
                     that at first a step depends mostly on its input
    scale            the bound of "uniform"
    peephole_scale   peepholes are uniform in +-peephole_scale
    forget_bias      the bias of the forget gate; all other biases are zero

    Raises ConfigError for unknown `weights`.
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
        """Draw a (rows, columns) matrix that maps `rows` inputs to `columns` outputs."""
        whole_number("the inputs of a weight", rows, 0)
        whole_number("the outputs of a weight", columns, 1)
        expect_generator(rng)
        bound = self.scale if self.weights == "uniform" else max(rows, 1) ** -0.5
        return Param(rng.uniform(-bound, bound, (rows, columns)))

    def input_weight(self, rng: np.random.Generator, D: int, columns: int) -> Param:
        """Draw the (D, columns) matrix of a layer's inputs, from a generator of its own.

        So the width D does not change the draws of the other parameters. D may be 0: no inputs.
        """
        expect_generator(rng)
        return self.weight(rng.spawn(1)[0], D, columns)

    def recurrent(self, rng: np.random.Generator, H: int, gates: int = 1) -> Param:
        """Draw an (H, gates*H) matrix that maps a state to the next pre-activations."""
        param = self.weight(rng, H, gates * H)
        self.weaken(param.value)
        return param

    def weaken(self, recurrence: np.ndarray) -> None:
        """Scale recurrent weights by 0.2 in place if `weights` is "weak-recurrence"."""
        if self.weights == "weak-recurrence":
            recurrence *= 0.2

    def peepholes(self, rng: np.random.Generator, H: int) -> Param:
        """Draw the (3, H) peepholes of the input, forget and output gates."""
        return Param(rng.uniform(-self.peephole_scale, self.peephole_scale, (3, H)))

    def bias(self, K: int) -> Param:
        """Return a bias (K,) of zeros."""
        return Param(np.zeros(K), decayed=False)

    def gate_bias(self, H: int) -> Param:
        """Return the bias (4H,) of the gates i f g o: forget_bias for f, zero for the others."""
        bias = np.zeros((4, H))
        bias[1] = self.forget_bias
        return Param(bias.ravel(), decayed=False)


class Blank(Init):
    """Weights of zeros, to ask a model for its size.

    The operating system reserves memory for such zeros only when it is first used.
    """

    def weight(self, rng, rows, columns):
        """Return a (rows, columns) matrix of zeros."""
        return Param(xp.zeros((rows, columns), current_backend().dtype))


PAPER_INIT = Init()


def expect_generator(rng) -> None:
    """Raise ConfigError unless `rng` is a generator of NumPy, and not a seed."""
    if not hasattr(rng, "spawn"):
        raise ConfigError(
            f"expected a generator of random numbers, got {rng!r}: use np.random.default_rng(seed)"
        )
