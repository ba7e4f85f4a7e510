"""Run `python -m minilstm.bench gpu` with CuPy on the emulated GPU and PyTorch on the CPU.

    EMULATION/run python tests/harness/bench_gpu.py --quick --only 1x512 --json FILE

Stand-ins take the place of what PyTorch offers on a GPU only: streams, graphs, events, its
profiler. All code of the benchmark runs. Its times mean nothing. Used by tests/test_cupy.py.
"""

import contextlib
import sys
import time
from types import SimpleNamespace

import torch

from minilstm import bench
from minilstm.benchmark import gpu
from minilstm.command import run_command


class Stream:
    def wait_stream(self, other):
        pass


class Graph:
    def replay(self):
        pass


class Event:
    def __init__(self, enable_timing):
        self.seconds = None

    def record(self):
        self.seconds = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return 1e3 * (end.seconds - self.seconds)


@contextlib.contextmanager
def profile(activities):
    names = "cudaGraphLaunch", "a kernel", "Memcpy HtoD"
    yield SimpleNamespace(events=lambda: [SimpleNamespace(name=name) for name in names])


if __name__ == "__main__":  # processes that keep the host busy import this file, and do nothing
    cuda, nothing = torch.cuda, contextlib.nullcontext
    cuda.is_available = lambda: True
    cuda.Stream, cuda.CUDAGraph, cuda.Event = Stream, Graph, Event
    cuda.current_stream, cuda.empty_cache = Stream, lambda: None
    cuda.stream = cuda.graph = lambda *arguments, **keywords: nothing()
    torch.optim.Optimizer._cuda_graph_capture_health_check = lambda optimizer: None
    torch.profiler.profile = profile
    gpu.DEVICE = "cpu"
    # a product of 8192 x 8192 numbers would take minutes
    gpu.limits = lambda: {"float32, TFLOP/s": 50.0, "tf32, TFLOP/s": 300.0, "copy, TB/s": 2.5}
    sys.exit(run_command(lambda: bench.main(["gpu", *sys.argv[1:]])))
