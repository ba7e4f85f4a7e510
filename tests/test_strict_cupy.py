"""Every layer and model on a CuPy that refuses and counts: no traffic in any."""

from types import SimpleNamespace

import numpy as np
import pytest
import strict_cupy
from on_cupy import TOLERANCE, named
from strict_cupy import counting, forbidding

from minilstm import gradcheck
from minilstm.backend import asarray, use_backend, xp
from minilstm.workspace import Reused, use_workspace

TRAFFIC = ("upload", "download", "sync")


@pytest.fixture
def strict(monkeypatch):
    strict_cupy.install(monkeypatch)
    monkeypatch.setattr(strict_cupy.Event, "LATE", 0)


@pytest.fixture
def there(strict):
    with use_backend("cupy", "float32"):
        yield


# ---------------------------------------------------------------- the stand-in itself


def test_it_refuses_what_cupy_refuses(there):
    a, host = xp.zeros((2, 3), "float32"), np.zeros((2, 3), "float32")
    for wrong in (
        lambda: np.asarray(a),
        lambda: a + host,
        lambda: host + a,
        lambda: xp.add(a, host),
        lambda: xp.multiply(a, 2.0, where=a > 0),
        lambda: xp.multiply(a, np.float64(2), out=xp.zeros((2, 3), "int32")),
        lambda: xp.matmul(a, host.T),
        lambda: xp.concatenate([host, host]),
        lambda: a.__setitem__(0, host[0]),
        lambda: a[np.zeros(2, int)],
        lambda: xp.einsum,
        lambda: xp.random,
    ):
        with pytest.raises((TypeError, ValueError, AttributeError)):
            wrong()
    assert (a * np.float64(2)).dtype == "float64"  # as in CuPy: hidden float64 would show


def test_it_counts_every_way_of_waiting(there):
    a = xp.zeros(3, "float32")
    for read in (
        lambda: float(a[0]),
        lambda: bool(a[0] > 1),
        lambda: a.get(),
        lambda: a.sum().item(),
        lambda: f"{a[0]:.1f}",
        lambda: a.tolist(),
        lambda: max(a[0], a[1]),
        lambda: xp.cuda.get_current_stream().synchronize(),
    ):
        with counting() as counts:
            read()
        assert counts["sync"] > 0
        with pytest.raises(AssertionError, match="no sync here"), forbidding("sync"):
            read()


def test_it_is_a_part_of_the_installed_cupy():
    real = pytest.importorskip("cupy", reason="cupy is not installed: nothing to compare with")
    assert strict_cupy.audit(real) == []


def test_the_audit_finds_what_cupy_lacks(monkeypatch):
    real = SimpleNamespace(**vars(strict_cupy.cupy))  # a copy
    assert strict_cupy.audit(real) == []
    monkeypatch.setattr(strict_cupy.cupy, "einsum", lambda x: x, raising=False)
    monkeypatch.setattr(strict_cupy.cupy, "where", lambda condition, x, y, out: x)
    wrong = ["cupy has no einsum", "cupy.where has no parameter out"]
    assert sorted(strict_cupy.audit(real)) == wrong


# ---------------------------------------------------------------- layers and models


@pytest.fixture
def sample(request):
    """A function that makes a layer with inputs in the library in use."""
    cls, variant = request.param
    return lambda: cls.samples(np.random.default_rng(0))[variant]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_gradient_is_that_of_numpy(strict, sample, dtype):
    with use_backend("numpy", "float64"):
        made = sample()
        here, _ = gradcheck.gradients(made.layer, named(made), "float64")
    with use_backend("cupy", dtype):
        made = sample()
        there, _ = gradcheck.gradients(made.layer, named(made), dtype)
    assert there.keys() == here.keys()
    for name, expected in here.items():
        zeros = made.zeros.get(name, ())
        assert gradcheck.error(there[name], expected, zeros) < TOLERANCE[dtype], name


def test_forward_and_backward_make_no_traffic(there, sample):
    made = sample()
    made.layer.astype("float32")
    inputs = gradcheck._cast(made.inputs, "float32")
    with use_workspace(Reused()):
        outputs, _ = made.layer.forward(*inputs)
        doutputs = gradcheck._map(lambda y: asarray(np.ones(y.shape)), outputs)
        with forbidding(*TRAFFIC):
            _, cache = made.layer.forward(*inputs)
            made.layer.backward(doutputs, cache)
