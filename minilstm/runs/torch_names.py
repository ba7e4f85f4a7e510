"""Weights to and from PyTorch, by PyTorch's names and in its layouts. PyTorch is not needed.

PyTorch calls a layer a module. k counts the layers of a stack. For an RNN, replace 4H by H.

    here                  in PyTorch                    shape            note
    LSTM, ElmanRNN        nn.LSTM, nn.RNN (tanh)
    a Stack of them       the same, num_layers > 1
      k.Wx  (D, 4H)         weight_ih_l{k}              (4H, D)          transposed; gates i f g o
      k.Wh  (H, 4H)         weight_hh_l{k}              (4H, H)          transposed; gates i f g o
      k.b   (4H,)           bias_ih_l{k}, bias_hh_l{k}  (4H,)            their sum; exported as b, 0
      k.Wp  (3, H)          weight_peephole_l{k}        (3, H)           not in PyTorch: see below
    Linear                nn.Linear
      W     (D, K)          weight                      (K, D)           transposed
      b     (K,)            bias                        (K,)
    model.encoder         encoder.                      an nn.LSTM
    decoder.stack         reconstruct.stack., predict.stack.
    decoder.readout       reconstruct.readout., predict.readout.

Modules with the same attributes load an exported file as it is. These are the modules of a
composite model whose decoders are unconditional and start with a step:

    import safetensors.torch
    from torch import nn

    class Decoder(nn.Module):
        def __init__(self, D, H, layers):
            super().__init__()
            self.stack = nn.LSTM(1, H, layers)  # its input is zeros: see below
            self.readout = nn.Linear(H, D)

        def forward(self, code, T):
            y, _ = self.stack(code[0].new_zeros(T, code[0].shape[1], 1), code)
            return self.readout(y)

    class Composite(nn.Module):
        def __init__(self, D, H, layers):
            super().__init__()
            self.encoder = nn.LSTM(D, H, layers)
            self.reconstruct = Decoder(D, H, layers)
            self.predict = Decoder(D, H, layers)

        def forward(self, past, T):
            _, code = self.encoder(past)
            return self.reconstruct(code, len(past)), self.predict(code, T)

    model = Composite(D, H, layers)
    model.load_state_dict(safetensors.torch.load_file("FILE.safetensors"))

These parts exist in only one of the two:

* Peepholes. `nn.LSTM` has none. Peepholes of zero are not exported. An export of other peepholes
  is refused, unless `keep_peepholes` asks for them. They then have a name that `load_state_dict`
  does not know. On import, missing peepholes become zero.
* Inputs of width 0, in an unconditional decoder. `nn.LSTM` needs at least width 1: it gets a
  weight_ih_l0 (4H, 1) of zeros, and should be fed zeros. On import this weight must be zero.
* bias=False. A module without any bias means b = 0.
* proj_size, bidirectional, nn.GRU, the cells of the slides: refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import asarray, to_numpy
from ..config import from_toml
from ..errors import ConfigError, RunError, named
from ..files import make_folder, refuse_pipe, write_file
from ..layers.layer import Layer
from ..layers.linear import Linear
from ..layers.lstm import LSTM, PeepholeLSTM
from ..layers.rnn import ElmanRNN
from ..layers.stack import Stack
from . import build, checkpoint
from .run_folder import RunFolder
from .trained import find_run


def to_torch(layer: Layer, keep_peepholes: bool = False) -> dict[str, np.ndarray]:
    """Return the parameters of a layer, stack or model as PyTorch's arrays, on the host.

    They are copies. Raises ConfigError for what PyTorch can't compute: the slides' cells, and
    peepholes that are not zero. `keep_peepholes` stores peepholes in any case, as
    weight_peephole_l{k}.
    """
    arrays = {}
    for name, part in _parts(layer):
        found = {key: to_numpy(param.value) for key, param in part.params().items()}
        if isinstance(part, Linear):
            named = {"weight": found["W"].T, "bias": found["b"]}
        else:
            Wx, Wh, b = found["Wx"], found["Wh"], found["b"]
            named = {
                "weight_ih": Wx.T if part.D else np.zeros((len(b), 1), b.dtype),
                "weight_hh": Wh.T,
                "bias_ih": b,
                "bias_hh": np.zeros_like(b),
            }
            if keep_peepholes and "Wp" in found:
                named["weight_peephole"] = found["Wp"]
            elif "Wp" in found and found["Wp"].any():
                raise ConfigError(
                    f"expected peepholes of zero for {name.format('*')}, since nn.LSTM has none, "
                    "got others: train with --cell standard, or store them under a name of their "
                    "own with --keep-peepholes (keep_peepholes=True)"
                )
        arrays |= {name.format(key): np.array(array, order="C") for key, array in named.items()}
    return arrays


def from_torch(layer: Layer, arrays: Mapping[str, np.ndarray]) -> None:
    """Fill the parameters of a layer, stack or model from PyTorch's arrays, in their own dtype.

    `arrays` may also be a `state_dict()` or `dict(named_parameters())` on the CPU. Raises RunError
    that names arrays that do not fit; then all parameters keep their values.
    """
    expected = to_torch(layer, keep_peepholes=True)
    given = {name: _on_host(name, array) for name, array in arrays.items()}
    wrong = [f"{name} is unknown" for name in given.keys() - expected.keys()]
    for name, own in expected.items():
        if name not in given:
            if not _may_be_absent(name, arrays):
                wrong.append(f"{name} is missing")
            given[name] = np.zeros_like(own)
        elif found := checkpoint.fault(given[name], own):
            wrong.append(f"{name} {found}")
    for name, part in _parts(layer):
        weight = name.format("weight_ih")
        if weight in expected and part.D == 0 and given[weight].any():
            wrong.append(f"{weight} is not zero, but this stack has no input")
    if wrong:
        raise RunError(
            f"expected PyTorch's arrays for this {type(layer).__name__}, got others: "
            f"{'; '.join(sorted(wrong))}: compare sizes, layers and cell (proj_size and "
            "bidirectional have no equivalent)"
        )
    for name, part in _parts(layer):
        if isinstance(part, Linear):
            new = {"W": given[name.format("weight")].T, "b": given[name.format("bias")]}
        else:
            biases = given[name.format("bias_ih")], given[name.format("bias_hh")]
            new = {
                "Wx": given[name.format("weight_ih")].T[: part.D],
                "Wh": given[name.format("weight_hh")].T,
                "b": np.add(*biases, dtype=np.float64),  # so that the sum is rounded only once
                "Wp": given.get(name.format("weight_peephole")),
            }
        for key, param in part.params().items():
            param.value[...] = asarray(new[key], param.value.dtype)


def _parts(layer: Layer, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the layers that PyTorch has, each with its name, such as "encoder.{}_l0".

    To get the name of an array, put its own name, such as weight_ih, in place of {}.
    """
    inner = {name: item for name, item in vars(layer).items() if isinstance(item, Layer)}
    if type(layer) in (LSTM, PeepholeLSTM, ElmanRNN):  # not its subclass SlidesLSTM
        yield prefix + "{}_l0", layer
    elif isinstance(layer, Linear):
        yield prefix + "{}", layer
    elif isinstance(layer, Stack):
        for k, one in enumerate(layer.layers):
            for _, part in _parts(one):
                yield f"{prefix}{{}}_l{k}", part
    elif len(layer.params()) == sum(len(item.params()) for item in inner.values()):
        for name, item in inner.items():
            yield from _parts(item, f"{prefix}{name}.")
    else:
        raise ConfigError(
            f"expected LSTM, PeepholeLSTM, ElmanRNN or Linear, got {type(layer).__name__}, which "
            "has no equivalent in PyTorch: use --cell standard, peephole or elman"
        )


def _on_host(name, array):
    """Return an array, or a tensor of PyTorch on the CPU, as a NumPy array."""
    try:
        # a parameter of PyTorch belongs to its graph of gradients until it is detached
        return np.asarray(array.detach() if hasattr(array, "detach") else array)
    except (TypeError, RuntimeError, ValueError) as error:
        raise RunError(
            "expected arrays of NumPy or tensors on the CPU, of a dtype that NumPy has, got "
            f"{named(error)} in {name}: convert tensors by .float().cpu()"
        ) from error


def _may_be_absent(name, given):
    module, dot, key = name.rpartition(".")
    if key.startswith("bias"):  # a module has all its biases or none
        return not any(other.startswith(f"{module}{dot}bias") for other in given)
    return key.startswith("weight_peephole")


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read all arrays of a safetensors file from any program. Raises RunError, DataError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    refuse_pipe(path)
    try:
        return load(Path(path).read_bytes())
    except (OSError, SafetensorError, KeyError) as error:
        raise RunError(
            f"{path}: expected a whole safetensors file of float32 or float64, got "
            f"{named(error)}: check the path, or save it again"
        ) from error


def export_run(run: str | Path, path: str | Path, keep_peepholes: bool = False) -> None:
    """Write the weights of a run into a new safetensors file that PyTorch can load.

    Raises RunError if the file exists, ConfigError for weights that PyTorch can't hold.
    """
    from safetensors.numpy import save

    arrays = to_torch(build.load_run(run), keep_peepholes)
    if os.path.exists(path):  # it may be the only copy of other weights
        raise RunError(f"expected a new file, got {path}, which exists: choose another name")
    write_file(path, save(arrays, metadata={"format": "pt"}))


def import_run(path: str | Path, run: str | Path, like: str | Path) -> None:
    """Make a run folder from a file of weights. `like` is a run or TOML file with its settings.

    Raises RunError for weights that do not fit the settings, and for a folder that can't be made.
    """
    run = Path(run)
    config = from_toml(Path(like)) if os.path.isfile(like) else build.read_config(like)
    arrays = read_arrays(path)
    weight = arrays.get("encoder.weight_ih_l0")
    if weight is None or weight.ndim != 2 or weight.size == 0:
        raise RunError(
            f"{path}: expected a model with encoder.weight_ih_l0 of shape (rows, pixels), got "
            f"{'none' if weight is None else weight.shape}: name its modules as in "
            "minilstm/runs/torch_names.py"
        )
    D, known = weight.shape[1], _pixels_of(config, like)
    if known not in (None, D):
        raise RunError(
            f"{path}: expected encoder.weight_ih_l0 for the {known} pixels of {like}, got {D}: "
            "give the weights of a model for such frames, or another --like"
        )
    model = build.build_model(config, D)
    from_torch(model, arrays)
    make_folder(run, new=True)
    checkpoint.save(run / "checkpoint.safetensors", model, None, {"step": 0, "D": D})
    write_file(run / "config.toml", config.to_toml())  # last, because it makes the folder a run


def _pixels_of(config, like):
    """Return the pixels of a frame of the run `like`, or of the data in its settings, if known."""
    if not os.path.isfile(like):
        path = RunFolder(find_run(like)).checkpoint
        return checkpoint.read(path, arrays=False)[1].get("D") if path.exists() else None
    drawn = config.data.source in ("moving-mnist", "actions", "action-changes")
    return config.data.frame_size**2 if drawn else None
