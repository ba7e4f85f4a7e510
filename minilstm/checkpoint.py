"""Checkpoints: everything a run needs to go on, in one safetensors file.

Arrays have readable names: `encoder.0.Wx` is a parameter, `optimizer.velocity` a state array of
the update rule over all parameters (in the order of `Layer.flat`). The header holds one JSON
text under "minilstm" with the step, the configuration and whatever else is not an array. Nothing
is ever unpickled.

Read next: experiment.py, which builds the model that a checkpoint fills.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .backend import asarray, to_numpy
from .errors import RunError
from .files import replacing
from .layer import Layer
from .optim import Optimizer


def save(path: str | Path, model: Layer, optimizer: Optimizer | None, about: dict) -> None:
    """Write the parameters, the optimizer's state and `about` (JSON types), atomically."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    arrays = {name: to_numpy(param.value) for name, param in model.params().items()}
    if optimizer is not None:
        about = about | {"optimizer_steps": optimizer.steps}
        arrays |= {f"optimizer.{name}": to_numpy(a) for name, a in optimizer.state.items()}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with replacing(path) as temporary:
        try:
            save_file(arrays, temporary, metadata={"minilstm": json.dumps(about)})
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(str(error)) from error


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict]:
    """All arrays by name, and `about`. Raises RunError for a missing or damaged file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["minilstm"])
            if not isinstance(about, dict):
                raise ValueError("its description is no table")
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except FileNotFoundError:
        raise RunError(f"expected a checkpoint at {path}, got no such file: check RUN") from None
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RunError(
            f"{path}: expected a whole checkpoint of minilstm, got {type(error).__name__} "
            f"({' '.join(str(error).split())[:200]}): use another checkpoint"
        ) from error


def fill(model: Layer, arrays: dict[str, np.ndarray], where: str | Path) -> None:
    """Copy arrays into the parameters of the same names; name all that are amiss in RunError."""
    params = model.params()
    arrays = {k: array for k, array in arrays.items() if not k.startswith("optimizer.")}
    wrong = [f"{name} is missing" for name in params.keys() - arrays.keys()]
    wrong += [f"{name} is unknown" for name in arrays.keys() - params.keys()]
    wrong += [
        f"{name} has shape {arrays[name].shape}, not {params[name].value.shape}"
        for name in params.keys() & arrays.keys()
        if arrays[name].shape != params[name].value.shape
    ]
    wrong += [f"{name} is not finite" for name, a in arrays.items() if not np.isfinite(a).all()]
    if wrong:
        raise RunError(
            f"{where}: expected the parameters of this {type(model).__name__}, got others: "
            f"{'; '.join(sorted(wrong))}: load it into the model it was saved from"
        )
    for name, param in params.items():
        param.value[...] = asarray(arrays[name], param.value.dtype)


def fill_optimizer(optimizer: Optimizer, arrays: dict, about: dict, where: str | Path) -> None:
    """Put the optimizer where it was when the checkpoint was saved."""
    for name, state in optimizer.state.items():
        saved = arrays.get(f"optimizer.{name}")
        if saved is None or saved.shape != state.shape:
            raise RunError(
                f"{where}: expected the state {name!r} of {type(optimizer).__name__}, got "
                f"{'none' if saved is None else saved.shape}: resume with the same optimizer"
            )
        state[...] = asarray(saved, state.dtype)
    optimizer.steps = about["optimizer_steps"]
