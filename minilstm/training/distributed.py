"""Training on several processes: each computes some rows of every batch, all make one update.

    mpiexec -n 4 python -m minilstm.train --distributed

The loss is a mean over the sequences of a batch, so its gradient is a sum over them, and the
sequences can be divided among processes. A RANK is one of the N processes that mpiexec started. In
every step each rank

    draws the whole batch k with its masks and choices, and takes its rows       `rows`
    computes losses and gradient, scaled for the whole batch
    sums the gradients of all ranks: the gradient of the whole batch             `sum`
    clips it, and makes the same update of the same weights as all others

Only that sum, the losses, and the signals to stop or to rewind are sent. All gradients are one
array (layer.py), so one call sums them. If the sum is not finite, it is so on all ranks, and all
handle it alike. Only the first rank writes: the run folder, the log, the progress bar.

`Alone` does the same for a single process, and sends nothing. Read next: step.py.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from functools import partial
from types import SimpleNamespace

import numpy as np

from .. import threads
from ..backend import current_backend, xp
from ..command import Interrupted, run_command
from ..errors import BackendError, ConfigError, NonFiniteError, one_line
from ..gpu import nccl

FORWARD_SECONDS = 0.5  # time for mpiexec to print a rank's message, before that rank ends all ranks
GRACE_SECONDS = 10.0  # time for the first rank to meet the same error, save and report it
# variables in which launchers give the number of ranks: mpiexec of MPICH, of Open MPI, srun
LAUNCHERS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")


class Alone:
    """A single process, which computes whole batches. Base of `Ranks`.

    rank, count   the number of this rank, from 0, and the number of ranks
    neighbours    number of ranks, this one included, that share the memory of its machine or GPU
    """

    rank, count, neighbours = 0, 1, 1

    @property
    def is_first(self) -> bool:
        """True for the rank that writes and prints."""
        return self.rank == 0

    def rows(self, B: int) -> slice:
        """Return the rows of this rank among the B sequences of a batch.

        Ranks differ by one row at most. Raises ConfigError unless every rank gets one.
        """
        if B < self.count:
            raise ConfigError(
                f"expected at least one sequence of a batch for each of {self.count} ranks, got "
                f"--batch-size {B}: raise it, or start fewer ranks"
            )
        return slice(B * self.rank // self.count, B * (self.rank + 1) // self.count)

    def sum(self, array) -> None:
        """Replace `array`, contiguous and on the device in use, by its sum over all ranks."""

    def add_losses(self, losses: dict, share: float) -> dict:
        """Return the losses of the whole batch from those of each rank's `share` of it."""
        return losses

    def largest(self, number: float) -> float:
        """Return the maximum over all ranks, each of which gives one `number`."""
        return number

    def stopped(self, stop: SimpleNamespace) -> int:
        """Return the signal after which all ranks stop at the same step, or 0.

        `stop` is that of `stop_signals` on this rank. One rank that received a signal is enough.
        """
        signum = int(self.largest(stop.received or 0))
        stop.received = signum or stop.received  # also on ranks that received none
        return signum

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


ALONE = Alone()


class Ranks(Alone):
    """The processes that `mpiexec -n N` started, each with its share of the CPUs, or its GPU.

    In `with Ranks("numpy") as ranks:` an error on any rank ends all ranks, because the others would
    wait for it forever. `library` is the array library, "numpy" or "cupy". Raises BackendError
    without MPI, or without a device.
    """

    def __init__(self, library: str):
        self._library, self._mpi = library, _find_mpi()
        self._world = self._mpi.COMM_WORLD
        self.rank, self.count = self._world.Get_rank(), self._world.Get_size()
        self._expect_launcher()

    def __enter__(self):
        try:
            self._share_machine()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _share_machine(self):
        here = self._world.Split_type(self._mpi.COMM_TYPE_SHARED)  # ranks on this machine
        self.neighbours = here.Get_size()
        if self._library == "cupy":
            devices = nccl.use_device(here.Get_rank())
            self.neighbours = -(-self.neighbours // devices)  # ranks per device
            if self.count > 1:
                self._sum_on_device = nccl.sum_over_devices(self.count, self.rank)
        self._share_cpus(here)

    def sum(self, array) -> None:
        """Replace `array` by its sum over all ranks, by NCCL on devices and by MPI on hosts."""
        if self.count == 1:
            return
        if current_backend().name == "cupy":
            self._sum_on_device(array)
        else:
            self._world.Allreduce(self._mpi.IN_PLACE, array)

    def add_losses(self, losses: dict, share: float) -> dict:
        """Return the losses of the whole batch from those of each rank's `share` of it."""
        total = xp.stack(list(losses.values())) * share
        self.sum(total)
        return dict(zip(losses, total, strict=True))

    def largest(self, number: float) -> float:
        """Return the maximum over all ranks, each of which gives one `number`."""
        found = np.array([number], np.float64)
        self._world.Allreduce(self._mpi.IN_PLACE, found, op=self._mpi.MAX)
        return float(found[0])

    def __exit__(self, kind, error, trace):
        if error is None or self.count == 1:
            return
        if isinstance(error, Interrupted | NonFiniteError):  # all ranks end alike
            if not self.is_first:
                raise SystemExit(128 + error.signum if isinstance(error, Interrupted) else 2)
            return
        if not self.is_first:  # the first rank saves and reports it
            time.sleep(GRACE_SECONDS)
            print(f"on rank {self.rank} of {self.count}:", file=sys.stderr)
        try:
            status = run_command(partial(_raise, error))
        except Exception:
            traceback.print_exc()
            status = 1
        sys.stderr.flush()
        time.sleep(FORWARD_SECONDS)
        self._world.Abort(status)
        os._exit(status)  # Abort may return

    def _expect_launcher(self):
        for name in LAUNCHERS:
            said = os.environ.get(name, "1")
            if self.count == 1 and said != "1":
                raise BackendError(
                    f"expected {said} ranks (from {name}), got one alone: mpiexec and mpi4py use "
                    "different MPI libraries; pip install -e '.[mpi]' brings a matching pair"
                )

    def _share_cpus(self, here):
        """Limit the threads of BLAS to this rank's share of the CPUs.

        If n ranks may use the same CPU, each of them counts 1/n of it.
        """
        mine = threads.cpus()  # those that the launcher gave this rank, or all
        users = np.zeros(1 + int(self.largest(mine[-1])), np.int64)
        users[mine] = 1
        here.Allreduce(self._mpi.IN_PLACE, users)
        share = max(1, int((1 / users[mine]).sum()))
        threads.limit(min(share, threads.blas().get("num_threads", share)))


def _find_mpi():
    try:
        from mpi4py import MPI
    except Exception as error:  # a missing MPI library is a RuntimeError
        none = isinstance(error, ModuleNotFoundError)
        raise BackendError(
            f"expected mpi4py and an MPI for --distributed, got "
            f"{'none' if none else one_line(error)}: pip install -e '.[mpi]', or mpi4py beside the "
            "MPI of your cluster"
        ) from error
    return MPI


def _raise(error):
    raise error
