"""The encoder: a stack of LSTMs that reads the past. Its final state is the code.

Slides: "Recurrent Encoder-Decoder". Paper: section 2.2. Read next: decoder.py.
"""

from __future__ import annotations

from ..layers.segments import SegmentedStack
from . import samples


class Encoder(SegmentedStack, sample=samples.encoder):
    """A stack over the past. Its final state, of every layer, is the code.

    past (T, B, D), masks -> code: one tuple of (B, H) arrays per layer. The masks are one
    (T, B, H) of bool per gap between layers. In evaluation masks is None.
    """

    def forward(self, past, masks=None):
        """past (T, B, D) -> code, cache."""
        (_, code), cache = super().forward(past, None, masks)
        return code, cache

    def backward(self, dcode, cache, want_dpast=True):
        """dcode (shaped as the code) -> dpast (T, B, D) or None if not wanted, None for masks."""
        dpast, _, _ = super().backward((None, dcode), cache, want_dpast)
        return dpast, None
