"""The comparison of a training step with PyTorch's, for a GPU and for the stand-in of CuPy."""

import pytest

from minilstm.benchmark import gpu
from minilstm.errors import BackendError


def expect_the_step_of_pytorch(monkeypatch):
    """Find the same losses and gradient, and see that losses which differ by 1 % are refused.

    Without a GPU PyTorch computes on the CPU.
    """
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not torch.cuda.is_available():
        monkeypatch.setattr(gpu, "find_torch", lambda: torch)
        monkeypatch.setattr(gpu, "DEVICE", "cpu")
    row = gpu.Row("tiny", "float32", 16, 2, 12, 6, 4, 2)
    assert gpu.expect_same_results(row) < 1e-4
    losses = gpu.Torch.losses
    monkeypatch.setattr(gpu.Torch, "losses", lambda self: [1.01 * x for x in losses(self)])
    with pytest.raises(BackendError, match="as PyTorch's within"):
        gpu.expect_same_results(row)
