"""The arrays of one unrolled layer. Its forward pass fills them, its backward pass reads them.

rnn.py has the loops that use them. Read next: memory_order.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .memory_order import loop_array, product_copy


@dataclass
class Unrolled:
    """The arrays of a layer over T time steps, by the names that the equations use.

    A cell that needs more arrays declares them in a subclass of this one.
    """

    x: np.ndarray  # (T, B, D) inputs
    a: np.ndarray | None = None  # (T, B, G*H) pre-activations, and after the backward loop da
    product: np.ndarray | None = None  # (B, G*H) scratch: h_prev Wh of one step
    h: np.ndarray | None = None  # (T+1, B, H) state, with the start at index 0
    y: np.ndarray | None = None  # (T, B, H) outputs
    dh: np.ndarray | None = None  # (B, H) gradient of the state of one step

    def array(self, width: int, steps: int | None = None):
        """Return an uninitialised array (T, B, width), or (steps, B, width)."""
        T, B, _ = self.x.shape
        return loop_array((T if steps is None else steps, B, width), self.x.dtype)

    def array_of_one_step(self, width: int):
        """Return an uninitialised array (B, width)."""
        return loop_array((self.x.shape[1], width), self.x.dtype)

    def end_loop(self) -> None:
        """Prepare `a` for products over all steps; free the arrays that only the loop needed."""
        self.product = None
        self.a = product_copy(self.a)


@dataclass
class UnrolledLSTM(Unrolled):
    """The arrays of an LSTM. `a` becomes the gates i f g o, then their slopes, then da."""

    c: np.ndarray | None = None  # (T+1, B, H) cell, with the start at index 0
    dc: np.ndarray | None = None  # (B, H) gradient of the cell of one step
    h_to_c: np.ndarray | None = None  # (T, B, H) slope of h with respect to c, see cells.py
    c_to_c: np.ndarray | None = None  # (T, B, H) slope of c with respect to c_prev

    def end_loop(self) -> None:
        """Free the slopes too."""
        self.h_to_c = self.c_to_c = None
        super().end_loop()


@dataclass
class UnrolledSlidesLSTM(UnrolledLSTM):
    """The arrays of the slides' LSTM, which projects its input."""

    Ix: np.ndarray | None = None  # (T, B, H) projected inputs
    dIx: np.ndarray | None = None  # (T, B, H) gradient of Ix


@dataclass
class UnrolledSlidesRNN(Unrolled):
    """The arrays of the slides' RNN, whose output is not its state."""

    dhs: np.ndarray | None = None  # (T, B, H) gradient of the state after every step
