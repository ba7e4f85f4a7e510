"""Frames to learn from: five sources with one small interface, and labelled clips.

`Source` (source.py) is that interface: `batch(k, B)`, `num_frames`, `frame_shape`, `num_sequences`
and `scale`. `as_vectors(frames, scale)` turns frames into what a layer takes, float32 (T, B, D),
and `as_frames` turns them back.

Read next: source.py, moving_mnist.py (the slides' Figure 5), then rng.py, digits.py, sequences.py,
vectors.py and patches.py (Figure 6); for action recognition (Figure 11) clips.py, actions.py and
percepts.py.
"""

from .actions import Actions
from .clips import Clips, windows
from .digits import load_digits, read_idx, resize_digits
from .moving_mnist import MovingMNIST, draw_frames, trajectories
from .patches import Patches, read_patches
from .percepts import Percepts, read_percepts, write_percepts
from .sequences import SequenceFile, read_sequences
from .source import Source
from .vectors import Scale, as_frames, as_vectors

__all__ = [
    "Actions",
    "Clips",
    "MovingMNIST",
    "Patches",
    "Percepts",
    "Scale",
    "SequenceFile",
    "Source",
    "as_frames",
    "as_vectors",
    "draw_frames",
    "load_digits",
    "read_idx",
    "read_patches",
    "read_percepts",
    "read_sequences",
    "resize_digits",
    "trajectories",
    "windows",
    "write_percepts",
]
