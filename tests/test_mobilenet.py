"""MobileNetV2 against PyTorch's layers, block by block, and on real photographs."""

import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from minilstm.data.mobilenet import SIZE, STRIDES, prepare, read_mobilenet
from minilstm.errors import DataError, ShapeError

DATA = os.environ.get("MINILSTM_DATA")
needs_data = pytest.mark.skipif(
    DATA is None, reason="needs real weights: set MINILSTM_DATA to the folder that has percepts/"
)
WIDTHS = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)


def random_arrays(seed=0):
    """Weights under torchvision's names, of its shapes, at a scale that keeps signals alive."""
    rng = np.random.default_rng(seed)
    arrays = {}

    def convolution(name, norm, K, C, window):
        fan_in = C * window * window
        W = rng.standard_normal((K, C, window, window)) * (2 / fan_in) ** 0.5
        arrays[f"{name}.weight"] = W.astype(np.float32)
        for part, low, high in (
            ("weight", 0.5, 1.5), ("bias", -0.5, 1), ("running_mean", -0.5, 0.5),
            ("running_var", 0.5, 2),
        ):  # fmt: skip
            arrays[f"{norm}.{part}"] = rng.uniform(low, high, K).astype(np.float32)

    convolution("features.0.0", "features.0.1", 32, 3, 3)
    before = 32
    for n, width in enumerate(WIDTHS, 1):
        block, wide, k = f"features.{n}.conv", before * (6 if n > 1 else 1), int(n > 1)
        if n > 1:
            convolution(f"{block}.0.0", f"{block}.0.1", wide, before, 1)
        convolution(f"{block}.{k}.0", f"{block}.{k}.1", wide, 1, 3)
        convolution(f"{block}.{k + 1}", f"{block}.{k + 2}", width, wide, 1)
        before = width
    convolution("features.18.0", "features.18.1", 1280, 320, 1)
    arrays["classifier.1.weight"] = rng.standard_normal((1000, 1280)).astype(np.float32) / 40
    arrays["classifier.1.bias"] = rng.standard_normal(1000).astype(np.float32)
    return arrays


def torch_network(arrays):
    """Build the network out of PyTorch's own layers, unfolded: features 0 to 18, and classes."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from torch import nn

    torch.set_num_threads(1)  # two that wait for one another are slower than one

    def with_norm(C, K, window=1, stride=1, groups=1):
        convolution = nn.Conv2d(C, K, window, stride, window // 2, groups=groups, bias=False)
        return [convolution, nn.BatchNorm2d(K)]

    class Block(nn.Module):
        def __init__(self, n, C, K):
            super().__init__()
            wide = C * (6 if n > 1 else 1)
            layers = [nn.Sequential(*with_norm(C, wide), nn.ReLU6())] if n > 1 else []
            layers += [
                nn.Sequential(*with_norm(wide, wide, 3, STRIDES[n - 1], wide), nn.ReLU6()),
                *with_norm(wide, K),
            ]
            self.conv = nn.Sequential(*layers)
            self.adds = STRIDES[n - 1] == 1 and C == K

        def forward(self, x):
            return x + self.conv(x) if self.adds else self.conv(x)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            blocks = [Block(n, *pair) for n, pair in enumerate(zip((32, *WIDTHS), WIDTHS), 1)]  # noqa: B905
            self.features = nn.Sequential(
                nn.Sequential(*with_norm(3, 32, 3, 2), nn.ReLU6()),
                *blocks,
                nn.Sequential(*with_norm(320, 1280), nn.ReLU6()),
            )
            self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(1280, 1000))

        def forward(self, x):
            x = self.features(x).mean((2, 3))
            return x, self.classifier(x)

    network = Network().double().eval()
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    unknown = network.load_state_dict(state, strict=False)
    assert not unknown.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in unknown.missing_keys)
    return network


def write_weights(path, arrays):
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return path


def real_arrays():
    from data_tools.convert_pth import read_pth

    return read_pth(Path(DATA, "percepts/mobilenet_v2-b0353104.pth"))


def difference(ours, theirs):
    """The largest difference relative to the largest number, ours (N, h, w, C) to (N, C, h, w)."""
    theirs = theirs.detach().numpy()
    theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize(
    "weights", ["random", pytest.param("real", marks=[needs_data, pytest.mark.slow])]
)
def test_every_block_and_the_whole_are_pytorchs(tmp_path, weights):
    arrays = random_arrays() if weights == "random" else real_arrays()
    theirs = torch_network(arrays)
    import torch

    ours = read_mobilenet(write_weights(tmp_path / "w.safetensors", arrays))
    rng = np.random.default_rng(1)
    N, h, w = 2, 10, 14
    for n, C in enumerate((32, *WIDTHS[:-1]), 1):
        x = rng.standard_normal((N, h, w, C)).astype(np.float32)
        expected = theirs.features[n](torch.from_numpy(x).double().permute(0, 3, 1, 2))
        assert difference(ours.block(n, x.copy()), expected) < 2e-6, f"block {n}"
    frames = rng.integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)
    x = torch.from_numpy(frames).double() / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    percepts, logits = theirs(x.permute(0, 3, 1, 2))
    found = ours.percepts(frames)
    assert found.dtype == np.float32 and difference(found, percepts) < 1e-5
    assert difference(ours.logits(found), logits) < 1e-5
    assert found.std(axis=1).min() > 1e-3  # the signal is alive


@needs_data
def test_a_man_in_a_suit_in_a_car_is_seen_as_that(tmp_path):
    pytest.importorskip("av", reason="av is not installed")
    from data_tools.video import read_frames

    network = read_mobilenet(write_weights(tmp_path / "w.safetensors", real_arrays()))
    frame = next(islice(read_frames(Path(DATA, "natural/carphone_pristine.mp4")), 30, None))
    logits = network.logits(network.percepts(prepare(frame[None])))[0]
    seat_belt, suit, tie = 785, 834, 906
    assert set(np.argsort(-logits)[:3]) == {seat_belt, suit, tie}


@pytest.mark.parametrize("size", [(256, 256), (240, 320), (320, 240), (1, 1), (1, 7), (500, 301)])
def test_pictures_of_any_size_become_the_middle_of_one_scale(size):
    frames = np.zeros((2, *size, 3), np.uint8)
    frames[1] = 200, 100, 50
    found = prepare(frames)
    assert found.shape == (2, SIZE, SIZE, 3) and found.dtype == np.uint8
    assert not found[0].any() and (found[1] == (200, 100, 50)).all()


def test_the_middle_is_the_middle():
    frame = np.zeros((256, 512, 3), np.uint8)
    frame[16:-16, 144:-144] = 255  # what is left of the sides is black
    assert (prepare(frame[None]) == 255).all()


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 5, 5, 3)), np.zeros((5, 5, 3), np.uint8), np.zeros((2, 5, 5), np.uint8),
               np.zeros((1, 0, 5, 3), np.uint8)],
)  # fmt: skip
def test_other_arrays_than_colour_frames_are_refused(frames):
    with pytest.raises(ShapeError, match="uint8"):
        prepare(frames)


def test_weights_that_are_damaged_missing_or_of_another_network_are_refused_in_a_line(tmp_path):
    path, arrays = tmp_path / "w.safetensors", random_arrays()
    raw = write_weights(path, arrays).read_bytes()
    name = "features.7.conv.2.weight"
    cases = [raw[:-1], raw[:1000], b"", b"\xff" * 100]
    for changed in (
        {name: arrays[name][:, :-1]}, {name: arrays[name][:-1]}, {name: arrays[name][..., 0, 0]},
        {name: arrays[name] * np.nan}, {"classifier.1.weight": np.zeros((3, 3), np.float32)},
        {name: arrays[name].astype(np.int32)}, {"classifier.1.bias": np.zeros(1, np.float32)},
        {"features.7.conv.3.weight": np.ones(1, np.float32)},  # NumPy would broadcast it
    ):  # fmt: skip
        cases.append(write_weights(path, arrays | changed).read_bytes())
    cases.append(write_weights(path, {"features.0.0.weight": arrays[name]}).read_bytes())
    for case in cases:
        path.write_bytes(case)
        with pytest.raises(DataError, match="expected the weights of MobileNetV2") as refusal:
            read_mobilenet(path)
        assert "\n" not in str(refusal.value)
    with pytest.raises(DataError, match="FileNotFoundError"):
        read_mobilenet(tmp_path / "missing.safetensors")
