"""Checkpoints: everything that a run needs to go on, in one safetensors file.

Arrays have readable names: `encoder.0.Wx` is a parameter, `optimizer.velocity` a state array of the
optimizer over all parameters (in the order of `Layer.flat`). The header holds one JSON text under
"minilstm", with the step, the settings and everything else that is not an array. Nothing is ever
unpickled.

Read next: build.py, which builds the model that a checkpoint fills.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import asarray
from ..errors import RunError, named
from ..files import replacing
from ..gpu.writer import in_pieces
from ..layers.layer import Layer
from ..optim import Optimizer

KINDS = {"float16": "F16", "float32": "F32", "float64": "F64"}  # safetensors' names


def save(path: str | Path, model: Layer, optimizer: Optimizer | None, about: dict) -> None:
    """Write the parameters, the optimizer's state and `about` (JSON types), whole or not at all.

    Raises RunError.
    """
    write(path, *contents(model, optimizer, about))


def contents(model: Layer, optimizer: Optimizer | None, about: dict) -> tuple[dict, dict]:
    """Return the arrays and the metadata of a checkpoint, as `write` takes them.

    The arrays are those of the model and the optimizer themselves, not copies. Raises RunError for
    an `about` that JSON can't hold.
    """
    arrays = {name: param.value for name, param in model.params().items()}
    if optimizer is not None:
        about = about | {"optimizer_steps": int(optimizer.steps)}
        arrays |= {f"optimizer.{name}": array for name, array in optimizer.state.items()}
    try:
        return arrays, {"minilstm": json.dumps(about)}
    except (TypeError, ValueError) as error:
        raise RunError(
            f"expected numbers, strings, lists and dicts of Python in `about`, got {named(error)}: "
            "use int() or float() for NumPy's numbers"
        ) from error


def write(path: str | Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a safetensors file array by array, whole or not at all. Raises RunError.

    The format: the length of the header in 8 bytes, the header in JSON, the bytes of all arrays.
    The library's own writer would copy the whole model first. Its reader is used, in `read`.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        kind = KINDS.get(array.dtype.name)
        if kind is None:
            raise RunError(
                f"{path}: expected arrays of {', '.join(KINDS)}, got {array.dtype} in {name}: "
                "for a model call model.astype first"
            )
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that arrays start at a multiple of 8 bytes
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            for piece in in_pieces(array):
                file.write(piece.data)


def read(path: str | Path, arrays: bool = True) -> tuple[dict[str, np.ndarray], dict]:
    """Read all arrays by name (or none, which is quick), and `about`.

    Raises RunError for a missing or damaged file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["minilstm"])
            if not isinstance(about, dict):
                raise ValueError("its description is no table")
            names = file.keys() if arrays else ()
            found = {name: file.get_tensor(name) for name in names}
        for name, array in found.items():
            if array.dtype.isbuiltin != 1:  # other packages may add such dtypes
                raise TypeError(f"{name} has dtype {array.dtype}")
        return found, about
    except FileNotFoundError:
        if os.path.exists(path):  # safetensors raises the same error for a file without permission
            raise RunError(
                f"expected a checkpoint at {path}, got a file that you may not read: ask its owner"
            ) from None
        raise RunError(f"expected a checkpoint at {path}, got no such file: check RUN") from None
    except (  # the last three: dtypes that NumPy lacks, and JSON that is nested too deeply
        OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError
    ) as error:  # fmt: skip
        raise RunError(
            f"{path}: expected a whole checkpoint of minilstm, got {named(error)}: "
            "use another checkpoint"
        ) from error


def fault(array: np.ndarray, value: np.ndarray) -> str:
    """Say why `array` cannot fill a parameter whose array is `value`; "" if it can."""
    if array.shape != value.shape:
        return f"has shape {array.shape}, not {value.shape}"
    if array.dtype.kind != "f":
        return f"has dtype {array.dtype}, not one of floats"
    if not (abs(array) <= np.finfo(value.dtype).max).all():  # NaN fails the comparison, too
        return f"is not finite in {value.dtype}"
    return ""


def fill(model: Layer, arrays: dict[str, np.ndarray], where: str | Path) -> None:
    """Copy arrays into the parameters of the same names. Raises RunError naming all misfits."""
    params = model.params()
    arrays = {k: array for k, array in arrays.items() if not k.startswith("optimizer.")}
    wrong = [f"{name} is missing" for name in params.keys() - arrays.keys()]
    wrong += [f"{name} is unknown" for name in arrays.keys() - params.keys()]
    for name in params.keys() & arrays.keys():
        if found := fault(arrays[name], params[name].value):
            wrong.append(f"{name} {found}")
    if wrong:
        raise RunError(
            f"{where}: expected the parameters of this {type(model).__name__}, got others: "
            f"{'; '.join(sorted(wrong))}: load it into the model it was saved from"
        )
    for name, param in params.items():
        param.value[...] = asarray(arrays[name], param.value.dtype)


def fill_optimizer(optimizer: Optimizer, arrays: dict, about: dict, where: str | Path) -> None:
    """Restore the state of an optimizer. Raises RunError if the state is of another one."""
    for name, state in optimizer.state.items():
        saved = arrays.get(f"optimizer.{name}")
        if saved is None or (saved.shape, saved.dtype) != (state.shape, state.dtype):
            raise RunError(
                f"{where}: expected the state {name!r} of {type(optimizer).__name__}, got "
                f"{'none' if saved is None else f'{saved.dtype} {saved.shape}'}: resume with the "
                "same optimizer and precision"
            )
        state[...] = asarray(saved, state.dtype)
    steps = about.get("optimizer_steps")
    if type(steps) is not int or not 0 <= steps < 2**63:
        raise RunError(
            f"{where}: expected optimizer_steps, an integer, got {steps!r}: use another checkpoint"
        )
    optimizer.steps = steps
