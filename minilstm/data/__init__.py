"""Where the frames come from. Five sources, one small interface, so training needs no branches:

    source.batch(k, B)     batch number k as uint8 frames (T, B, height, width), time first;
                           of percepts float32 (T, B, D)
    source.num_frames      T
    source.frame_shape     (height, width), of coloured patches (height, width, 3), of percepts (D,)
    source.num_sequences   how many there are; math.inf where they are made as needed
    source.scale           what frames are normalised by; None where they are learned in [0, 1]

`batch` is a pure function of the source's settings, its seed, k and B: any batch can be drawn at
any time, in any order, by any process, and is the same to the bit. `as_vectors(frames, scale)`
turns frames into what a layer takes, float32 (T, B, D), and `as_frames` turns them back.

Read next: moving_mnist.py (the slides' Figure 5), then rng.py, digits.py, sequences.py,
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
from .vectors import Scale, as_frames, as_vectors

__all__ = [
    "Actions",
    "Clips",
    "MovingMNIST",
    "Patches",
    "Percepts",
    "Scale",
    "SequenceFile",
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
