"""Several GPUs: one process for each, and sums over all of them by NCCL.

Neither function has run on more than one GPU yet. Read next: ../training/distributed.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .diagnosis import asked, find_cupy, find_device, find_driver


def use_device(number: int) -> int:
    """Choose GPU `number` modulo the number of GPUs for this process. Return the number of GPUs.

    Call it before CuPy is chosen. Raises BackendError.
    """
    for find in (find_cupy, find_driver, find_device):
        find()
    from cupy.cuda import runtime

    count = runtime.getDeviceCount()
    runtime.setDevice(number % count)
    return count


def sum_over_devices(count: int, rank: int) -> Callable[[np.ndarray], None]:
    """Return a function that replaces an array on the device by its sum over `count` processes.

    Every process must call that function with the same arrays in the same order. The host does not
    wait for the sum. MPI introduces the processes to one another. Raises BackendError.
    """

    def connected():
        from cupyx.distributed import NCCLBackend

        return NCCLBackend(count, rank, use_mpi=True)

    advice = "pip install nvidia-nccl-cu12 or nvidia-nccl-cu13, and start one rank for each GPU"
    nccl = asked("NCCL, which adds over GPUs,", connected, advice)
    return lambda array: nccl.all_reduce(array, array)
