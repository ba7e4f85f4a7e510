"""Where the frames come from. Two sources, one small interface, so training needs no branches:

    source.batch(k, B)     batch number k as uint8 frames (T, B, height, width), time first
    source.num_frames      T
    source.frame_shape     (height, width)

`batch` is a pure function of the source's settings, its seed, k and B: any batch can be drawn at
any time, in any order, by any process, and is the same to the bit. `as_vectors` turns frames into
what a layer takes: float32 (T, B, D), D = height * width, in [0, 1].

Read next: moving_mnist.py (the slides' Figure 5), then shuffle.py, digits.py and sequences.py.
"""

from .digits import load_digits, read_idx, resize_digits
from .moving_mnist import MovingMNIST, draw_frames, trajectories
from .sequences import SequenceFile, as_vectors, read_sequences

__all__ = [
    "MovingMNIST",
    "SequenceFile",
    "as_vectors",
    "draw_frames",
    "load_digits",
    "read_idx",
    "read_sequences",
    "resize_digits",
    "trajectories",
]
