"""Batches for training: frames, dropout masks and choices of decoder inputs, drawn on the host.

Batch k is a function of the configuration and k. A thread draws the next batches while the training
step computes.

Read next: loop.py.
"""

from __future__ import annotations

import contextvars
import queue
import threading

import numpy as np

from ..backend import current_backend
from ..config import Config
from ..data import Source, as_vectors
from ..data.rng import Purpose, keyed_rng
from ..gpu.transfers import Uploads
from ..models import decoder_steps
from ..runs import build
from .distributed import ALONE, Alone
from .step import Batch


def draw_batch(source: Source, config: Config, k: int, ranks: Alone = ALONE) -> Batch:
    """Draw batch k on the host and return this rank's rows. A function of (config, k) and the rank.

    A rank is one of several processes that train together (distributed.py). Frames and random
    choices are drawn for the whole batch, so they do not depend on the number of ranks.
    """
    B, rows = config.run.batch_size, ranks.rows(config.run.batch_size)
    frames = as_vectors(source.batch(k, B)[:, rows], source.scale)
    if frames.dtype != config.run.dtype:
        frames = frames.astype(config.run.dtype)
    past = config.data.past
    return Batch(frames[:past], frames[past:], *choices_of(config, k, rows))


def choices_of(config: Config, k: int, rows: slice) -> tuple:
    """Return the other fields of batch k for some of its rows: feed_truth, masks, share, rate."""
    B = config.run.batch_size
    feeding, masks = (_rows_of(draw(config, k), rows) for draw in (draw_feeding, draw_masks))
    return feeding, masks, (rows.stop - rows.start) / B, build.build_schedule(config)(k)


def _rows_of(choices, rows):
    """Copy some rows of nested tuples of arrays (T, B, ...)."""
    if isinstance(choices, tuple):
        return tuple(_rows_of(part, rows) for part in choices)
    return choices[:, rows].copy() if isinstance(choices, np.ndarray) else choices


def draw_feeding(config: Config, k: int) -> tuple | bool:
    """Draw `feed_truth` of batch k: True, False, or one (T, B) of bool for each decoder."""
    feeding, B = config.feeding, config.run.batch_size
    if feeding.inputs != "scheduled":
        return feeding.inputs == "truth"
    progress = min(k / feeding.truth_steps, 1.0)
    truth = feeding.truth_start + progress * (feeding.truth_end - feeding.truth_start)
    if truth in (0.0, 1.0):
        return truth == 1.0
    rng = keyed_rng(Purpose.FEEDING, config.run.seed, k)
    lengths = (config.data.past, config.data.future)
    return tuple(rng.random((T, B), np.float32) < truth for T in lengths)


def draw_masks(config: Config, k: int) -> tuple | None:
    """Draw the dropout masks of encoder and decoders, one (T, B, H) per gap between layers."""
    c, B = config.model, config.run.batch_size
    if c.dropout == 0 or c.layers == 1:
        return None
    rng = keyed_rng(Purpose.DROPOUT, config.run.seed, k)
    past, future = config.data.past, config.data.future
    lengths = (past, decoder_steps(c.start, past), decoder_steps(c.start, future))
    return tuple(
        tuple(rng.random((c.layers - 1, T, B, c.hidden), np.float32) >= c.dropout) for T in lengths
    )


class BatchesAhead:
    """Batches k = first, ..., last - 1, drawn by a thread while the training step computes.

    `packing` (packing.py) draws them. With CuPy the thread also uploads each batch.
    """

    def __init__(self, packing, first: int, last: int):
        self._packing = packing
        self._uploads = Uploads() if current_backend().name == "cupy" else None
        self._queue = queue.Queue(maxsize=3)
        self._stopped = threading.Event()
        # a new thread has an empty context: it would not see the backend that is in force here
        run, arguments = contextvars.copy_context().run, (self._draw, range(first, last))
        self._thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._thread.start()

    def _draw(self, numbers):
        for k in numbers:
            try:
                packed = self._packing.pack(k)
                if self._uploads:
                    packed = self._uploads.send(packed)
            except Exception as error:  # `receive` raises it again
                packed = error
            while not self._stopped.is_set():
                try:
                    self._queue.put(packed, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if self._stopped.is_set() or isinstance(packed, Exception):
                return

    def receive(self):
        """Return the next batch, packed. On a GPU the next call overwrites it."""
        packed = self._queue.get()
        if isinstance(packed, Exception):
            raise packed
        return self._uploads.receive(packed) if self._uploads else packed

    def next(self) -> Batch:
        """Return the next batch."""
        return self._packing.open(self.receive())

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self._uploads:
            self._uploads.stop()
        self._thread.join()
        if self._uploads:
            self._uploads.finish()
