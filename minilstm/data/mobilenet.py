"""MobileNetV2, forward only: pictures in, "percepts" out, the features of a network for ImageNet.

    network = read_mobilenet("mobilenet_v2.safetensors")  # made by data_tools/convert_pth.py
    percepts = network.percepts(prepare(frames))  # uint8 (N, height, width, 3) -> (N, 1280)

The paper describes a frame of video by a layer of a convolutional network (VGG, 4096 numbers), and
the LSTM learns from these numbers. MobileNetV2 needs a fiftieth of the products, and gives 1280
numbers. Its weights are fixed, so there is no backward pass. Batch normalisation is then one
product and one sum per channel, and `fold` puts both into the convolution before it.

Pictures are (N, height, width, channels). In this order a 1x1 convolution is one matrix product
over all pixels. A depthwise 3x3 convolution, which never mixes channels, is nine shifted products.

Slides: "Input at each timestep" (Features trained on ImageNet). Source: Sandler et al.,
"MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018; weights and their names are
torchvision's.
Read next: data/percepts.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..backend import asarray, current_backend, to_numpy, xp
from ..errors import DataError, ShapeError, named

SIZE, SHORT_SIDE = 224, 256  # pixels: of the input, and of the picture it is cut from
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours, in [0, 1]
STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)  # of the 17 blocks
EPSILON = 1e-5  # of the batch normalisation
# A block is computed in bands of rows, because it widens its input to many channels. BAND is the
# number of elements of the wide array that are computed at a time. On the host they fit into the
# processor's cache, which doubles the speed. On a device they are limited by its memory.
BAND = {"numpy": 2**18, "cupy": 2**26}


def prepare(frames: np.ndarray, whole: bool = False) -> np.ndarray:
    """Convert frames uint8 (N, height, width, 3) to the network's input: uint8 (N, 224, 224, 3).

    The shorter side is scaled to 256 pixels by antialiased bilinear interpolation, then the middle
    is cut out. The network was tested with such pictures. With `whole` nothing is cut off, and a
    frame that is not square is squeezed. Raises ShapeError.
    """
    from PIL import Image

    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ShapeError(
            f"expected frames uint8 (N, height, width, 3), N >= 1, got {frames.dtype} "
            f"{frames.shape}: convert them to RGB"
        )
    height, width = frames.shape[1:3]
    short = min(height, width)
    size = (SHORT_SIDE * width // short, SHORT_SIDE * height // short)
    size = (SIZE, SIZE) if whole else size
    left, top = (round((n - SIZE) / 2) for n in size)
    found = np.empty((len(frames), SIZE, SIZE, 3), np.uint8)
    for frame, out in zip(frames, found, strict=True):
        picture = Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)
        out[:] = picture.crop((left, top, left + SIZE, top + SIZE))
    return found


def pointwise(x, W, b):
    """Convolve 1x1: x (N, h, w, C), W (C, K) -> (N, h, w, K)."""
    N, h, w, C = x.shape
    y = x.reshape(-1, C) @ W
    y += b
    return y.reshape(N, h, w, -1)


def views_3x3(padded, stride):
    """Return nine views of x with zeros around it (N, h + 2, w + 2, C): each (N, h', w', C).

    View 3 i + j holds row i and column j of the 3x3 window around every position.
    """
    h, w = padded.shape[1] - 2, padded.shape[2] - 2
    return [padded[:, i : i + h : stride, j : j + w : stride] for i in range(3) for j in range(3)]


def depthwise(padded, W, b, stride):
    """Convolve each channel 3x3 on its own: x as in `views_3x3`, W (9, C) -> (N, h', w', C)."""
    views = views_3x3(padded, stride)
    y = views[0] * W[0]
    y += b
    product = xp.empty(y.shape, y.dtype)
    for view, weight in zip(views[1:], W[1:], strict=True):
        y += xp.multiply(view, weight, out=product)
    return y


def relu6(x):
    """Compute min(max(x, 0), 6), in place."""
    return xp.clip(x, 0, 6, out=x)


class MobileNetV2:
    """MobileNetV2 with `weights`, pairs (W, b) that include batch normalisation. Uses float32."""

    def __init__(self, weights: dict[str, tuple[np.ndarray, np.ndarray]]):
        self.weights = {
            name: tuple(asarray(array, "float32") for array in pair)
            for name, pair in weights.items()
        }
        self.mean, self.std = asarray(MEAN, "float32"), asarray(STD, "float32")

    def block(self, n: int, x):
        """Apply block n of 1 to 17, an "inverted residual": x (N, h, w, C) -> (N, h', w', C').

        A block that keeps the shape adds its result to x. Rows are computed in bands (BAND).
        """
        N, h, w, _ = x.shape
        step = STRIDES[n - 1]
        wide, narrow = (self.weights[f"{n} {part}"][0].shape[1] for part in ("look", "narrow"))
        rows = max(1, BAND[current_backend().name] // (N * w * wide * step))
        y = xp.empty((N, -(-h // step), -(-w // step), narrow), x.dtype)
        for top in range(0, y.shape[1], rows):
            band = y[:, top : top + rows]
            band[...] = self._band(n, x, top, top + band.shape[1])
        if y.shape == x.shape:
            y += x
        return y

    def _band(self, n, x, top, bottom):
        """Compute rows `top` to `bottom` of a block: widen (1x1), look (3x3), narrow (1x1)."""
        h, step = x.shape[1], STRIDES[n - 1]
        first, last = top * step - 1, (bottom - 1) * step + 2  # the input rows in the windows
        above, below = max(-first, 0), max(last - h, 0)  # how many of these lie outside the picture
        x = x[:, first + above : last - below]
        if n > 1:  # the first block does not widen
            x = relu6(pointwise(x, *self.weights[f"{n} widen"]))
        x = xp.pad(x, ((0, 0), (above, below), (1, 1), (0, 0)))
        x = relu6(depthwise(x, *self.weights[f"{n} look"], step))
        return pointwise(x, *self.weights[f"{n} narrow"])

    def percepts(self, pictures: np.ndarray) -> np.ndarray:
        """Describe pictures uint8 (N, 224, 224, 3): float32 (N, 1280), all >= 0, on the host."""
        x = (asarray(pictures, "float32") / 255 - self.mean) / self.std
        views = views_3x3(xp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 2)
        x = xp.empty((*views[0].shape[:3], 9, 3), x.dtype)  # a 3x3 convolution as a 1x1 one
        for k, view in enumerate(views):
            x[..., k, :] = view
        x = x.reshape(*x.shape[:3], 27)
        x = relu6(pointwise(x, *self.weights["first"]))
        for n in range(1, len(STRIDES) + 1):
            x = self.block(n, x)
        x = relu6(pointwise(x, *self.weights["last"]))
        return to_numpy(x.mean(axis=(1, 2)))

    def logits(self, percepts: np.ndarray) -> np.ndarray:
        """Classify percepts (N, 1280): logits of ImageNet's classes (N, 1000), on the host."""
        W, b = self.weights["classes"]
        return to_numpy(asarray(percepts, "float32") @ W + b)


def read_mobilenet(path: str | Path) -> MobileNetV2:
    """Read the network from a safetensors file with torchvision's weights of `mobilenet_v2`.

    Raises DataError for a file that is missing or damaged, or has other weights.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    remedy = "make it by python -m data_tools.convert_pth from torchvision's mobilenet_v2 .pth"
    try:
        arrays = load_file(path)
        with np.errstate(all="ignore"):
            network = network_of(arrays)
            pixel = np.zeros((1, 1, 1, 3), np.uint8)  # enough to check all shapes
            logits = network.logits(network.percepts(pixel))
        if not np.isfinite(logits).all():
            raise ValueError("numbers that are not finite")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: expected the weights of MobileNetV2, got {named(error)}: {remedy}"
        ) from error
    return network


def network_of(arrays: dict[str, np.ndarray]) -> MobileNetV2:
    """Build the network of arrays under torchvision's names. Raises KeyError if one is missing."""
    weights = {name: fold(arrays, *names) for name, names in _names().items()}
    _floats(arrays, "classifier.1.bias", len(_floats(arrays, "classifier.1.weight")))
    classes = arrays["classifier.1.weight"].T, arrays["classifier.1.bias"]
    return MobileNetV2(weights | {"classes": classes})


def _floats(arrays, name, length=None):
    """Return an array in float64. Raises ValueError unless it has floats, and this length."""
    array = arrays[name]
    if array.dtype.kind != "f" or not array.ndim or (length and array.shape != (length,)):
        raise ValueError(f"{array.dtype} {array.shape} in {name}")
    return array.astype(np.float64)


def _names():
    """Return torchvision's names of each layer: of a convolution and of its normalisation."""
    names = {"first": ("features.0.0", "features.0.1"), "last": ("features.18.0", "features.18.1")}
    for n in range(1, len(STRIDES) + 1):
        block, k = f"features.{n}.conv", 0 if n == 1 else 1
        if n > 1:
            names[f"{n} widen"] = (f"{block}.0.0", f"{block}.0.1")
        names[f"{n} look"] = (f"{block}.{k}.0", f"{block}.{k}.1")
        names[f"{n} narrow"] = (f"{block}.{k + 1}", f"{block}.{k + 2}")
    return names


def fold(arrays: dict[str, np.ndarray], convolution: str, norm: str):
    """Fold a normalisation into its convolution. Returns W and b.

    W is scaled by gamma / sqrt(variance + epsilon). W (K, C, 3, 3) becomes (9 C, K), W (K, C, 1, 1)
    becomes (C, K), and a depthwise W (K, 1, 3, 3) becomes (9, K).
    """
    W = _floats(arrays, f"{convolution}.weight")
    gamma, beta, mean, variance = (
        _floats(arrays, f"{norm}.{part}", len(W))
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + EPSILON)
    W = W.transpose(2, 3, 1, 0).reshape(-1, len(W)) * scale
    return W, beta - mean * scale
