"""Build from settings: the model, its loss, the optimizer, and the sources of data.

    import math
    from minilstm.config import load

    config = load()  # the defaults, or load(["github2016"])
    source = open_source(config, "train")
    model = build_model(config, D=math.prod(source.frame_shape))
    optimizer = build_optimizer(model, config)

`load_run` builds the model of a run folder and fills it with the weights that it learned.

Read next: ../training/step.py.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from .. import models
from ..backend import asarray, current_backend, use_backend
from ..config import ClassifySettings, Config, differences, from_toml
from ..data import (
    Actions,
    Clips,
    MovingMNIST,
    Patches,
    Percepts,
    SequenceFile,
    Source,
    load_digits,
    read_percepts,
)
from ..data.clips import expect_classes
from ..data.digits import MD5, find_idx
from ..data.fingerprint import fingerprint
from ..data.rng import SPLITS, Purpose, expect_split, keyed_rng, members_of_split
from ..data.splits import few_per_class, grouped_folds
from ..errors import ConfigError, RunError
from ..files import shell_word
from ..layers.init import Init
from ..layers.layer import Layer
from ..layers.losses import BernoulliCrossEntropy, Loss, SquaredError
from ..layers.lstm import LSTM, PeepholeLSTM, SlidesLSTM
from ..layers.rnn import ElmanRNN, Recurrent, SlidesRNN, has_shared_loop
from ..optim import SGD, Adam, Optimizer, RMSProp, schedule
from . import checkpoint
from .own_cell import expect_class, expect_own_cell, read_cell, refuse_inside, with_cell
from .run_folder import RunFolder
from .trained import find_run

MODELS = {
    "autoencoder": models.Autoencoder,
    "predictor": models.FuturePredictor,
    "composite": models.Composite,
}
CELLS = {
    "peephole": PeepholeLSTM,
    "standard": LSTM,
    "slides-lstm": SlidesLSTM,
    "elman": ElmanRNN,
    "slides-rnn": SlidesRNN,
}
RULES: dict[str, type[Optimizer]] = {"sgd": SGD, "rmsprop": RMSProp, "adam": Adam}
# settings that a finished run may have in another way: they change no weight
HOW = (
    "run.steps", "run.threads", "run.log_every", "run.validate_every", "run.checkpoint_every",
    "run.backend",
)  # fmt: skip
# settings that change no step's result
FREE = ("run.minutes", "run.keep", "run.graph")
SEEDS = {"validation": 1_000_000_007, "test": 2_000_000_011}  # of the motions; --seed can't be one


def build_loss(config: Config) -> Loss:
    """Return cross-entropy for pixels, squared error for frames that are normalised."""
    if config.data.source in ("patches", "percepts", "action-changes"):
        return SquaredError()
    return BernoulliCrossEntropy()


def cell_of(config: Config) -> type[Recurrent]:
    """Return the class of the recurrent layers. A file of the user's own is executed for it."""
    own = config.model.cell_file
    return CELLS[config.model.cell] if own is None else read_cell(own)


def build_init(config: Config) -> Init:
    """Return the rule by which a configuration draws the first weights."""
    settings = config.init
    return Init(settings.weights, settings.scale, settings.peephole_scale, settings.forget_bias)


def build_model(
    config: Config, D: int, init: Init | None = None, cell: type[Recurrent] | None = None
) -> models.EncoderDecoder:
    """Build the model of a configuration for frames of D pixels, its parameters drawn by the seed.

    `init` replaces the configuration's. The model has the dtype of the configuration.
    """
    rng = keyed_rng(Purpose.WEIGHTS, config.run.seed)
    settings = config.model
    init = init or build_init(config)
    cell = cell or cell_of(config)
    if settings.conditional != "none" and not has_shared_loop(cell):
        raise ConfigError(
            "expected a cell with the forward and backward of Recurrent for --conditional "
            f"{settings.conditional}, got {cell.__name__}, which has its own: move that code to "
            "step and step_backward, or leave out --conditional"
        )
    with use_backend(current_backend().name, config.run.dtype):
        model = MODELS[settings.kind](
            D,
            settings.hidden,
            settings.layers,
            rng,
            conditional=settings.conditional,
            start=settings.start,
            loss=build_loss(config),
            cell=cell,
            init=init,
            dropout=settings.dropout,
        )
    model.set_segments(config.run.recompute, config.run.tbptt)
    return model


def open_source(config: Config, split: str) -> Source:
    """Open the frames of one split: "train", "validation" or "test".

    Moving MNIST and actions draw from MNIST's own training and test digits; every tenth training
    digit is kept for validation. The validation and test sequences are the same for every seed.
    Raises ConfigError for an unknown split and without a path that is needed, DataError for files
    that can't be used.
    """
    data, T = config.data, config.data.past + config.data.future
    seed = seed_of(split, config.run.seed)
    if data.source in ("patches", "percepts"):
        if not data.path:
            raise ConfigError(
                f"expected the path of {data.source}, got none: name it by --path, or by path in "
                "[data]"
            )
        if data.source == "percepts":
            return Percepts(data.path, T, seed, split, data.stride)
        return Patches(data.path, T, seed, split)
    if data.source.endswith(".npy"):
        return SequenceFile(data.source, T, seed, split=split)
    images = split_digits(data.digits, split)
    if data.source in ("actions", "action-changes"):
        return Actions(images, data.frame_size, T, seed, data.source == "action-changes")
    return MovingMNIST(
        images, data.num_digits, data.frame_size, data.digit_size, T, data.speed, seed
    )


def data_fingerprints(config: Config) -> dict[str, str]:
    """Return the fingerprints of a run's data files: {role: fingerprint}.

    It is empty for data that are generated. MNIST's own files need no fingerprint, because only the
    original files are accepted.
    """
    data = config.data
    files = {}
    if data.source == "percepts":
        names = ("features.h5", "num_frames.txt", "groups.txt")
        files = {name: Path(data.path, name) for name in names if Path(data.path, name).is_file()}
    elif data.source == "patches":
        files = {"patches": data.path}
    elif data.source.endswith(".npy"):
        files = {"sequences": data.source}
    return {role: fingerprint(path) for role, path in files.items()}


def seed_of(split: str, seed: int) -> int:
    """Return the seed of a split's motions: `seed` for training, a fixed one for the other two.

    Raises ConfigError for an unknown split, and for a `seed` that would train on the motions of
    validation or test.
    """
    expect_split(split, SPLITS)
    if seed in SEEDS.values():
        raise ConfigError(
            f"expected a seed other than those of the validation and test motions, got {seed}: "
            "choose another --seed"
        )
    return SEEDS.get(split, seed)


def open_test_source(config: Config, data: str | None) -> Source:
    """Open test sequences: of the run's own data, or of another source or file of its kind.

    Patches or percepts from elsewhere are normalised by the run's training data. See `own_data_at`
    for the run's own data that lie elsewhere. Raises ConfigError for data that the run can't be
    judged on.
    """
    if data is None:
        return open_source(config, "test")
    if config.data.source == "action-changes":
        raise ConfigError(
            f"expected no --data for a run on action-changes, because no file has such frames, got "
            f"{data}: leave it out"
        )
    T = config.data.past + config.data.future
    if config.data.source == "patches":
        return Patches(data, T, scale=open_source(config, "train").scale)
    if config.data.source == "percepts":
        scale = open_source(config, "train").scale
        return Percepts(data, T, stride=config.data.stride, scale=scale)
    if data.endswith(".npy"):
        return SequenceFile(data, T)
    if data != "moving-mnist":
        raise ConfigError(
            f"expected --data moving-mnist or a .npy file, whose pixels are in [0, 1] as those of "
            f"this run, got {data!r}: give other --data"
        )
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, source=data))
    return open_source(other, "test")


def own_data_at(config: Config, data: str, about: dict) -> Config | None:
    """Return the settings with `data` as the place of the run's data; None if it is other data.

    `data` is a file or folder. Its fingerprints are compared with those in `about`, the description
    in the checkpoint. Old and imported runs have no fingerprints there: then they are taken from
    the data at the place in the settings. Raises DataError for a file that can't be read.
    """
    if config.data.source in ("patches", "percepts"):
        there = dataclasses.replace(config.data, path=data)
    elif config.data.source.endswith(".npy") and data.endswith(".npy"):
        there = dataclasses.replace(config.data, source=data)
    else:
        return None
    moved = dataclasses.replace(config, data=there)
    found = data_fingerprints(moved)
    known = about.get("data")
    if not known and not any(_missing_data(config)):
        known = data_fingerprints(config)
    return moved if found and found == known else None


def split_digits(digits: str, split: str) -> np.ndarray:
    """Return the digits of one split, uint8 (N, 28, 28). No two splits share one.

    Raises ConfigError for an unknown split, and what `load_digits` raises.
    """
    expect_split(split, SPLITS)
    images, _ = load_digits(digits, "test" if split == "test" else "train")
    if split == "test":
        return images
    held_out = members_of_split(np.arange(len(images)), "validation")
    return images[held_out] if split == "validation" else np.delete(images, held_out, axis=0)


def start_readouts(model: models.EncoderDecoder, mean: np.ndarray) -> None:
    """Start both decoders from the mean image (D,).

    Otherwise the model would have to learn the mean image first. A bias needs a thousand updates to
    get from 0 to -5. Until then hidden units do its work: they saturate at +-1 and learn nothing
    else.
    """
    bias = model.loss.logits(asarray(mean, model.dtype))
    for decoder in model.decoders.values():
        decoder.readout.b.value[...] = bias


def build_optimizer(model: Layer, config: Config) -> Optimizer:
    """Build the optimizer of a configuration for all parameters of a model."""
    settings = config.optimizer
    numbers: dict = {
        "momentum": settings.momentum,
        "l2": settings.l2,
        "clamp_update": settings.clamp_update,
    }
    if settings.rule != "sgd":  # it has no mean square of gradients
        numbers |= {"decay": settings.mean_square_decay, "epsilon": settings.epsilon}
    return RULES[settings.rule](model.flat(), **numbers)


def build_schedule(config: Config):
    """Return the learning rate as a function of the steps before, skipped ones included."""
    settings = config.optimizer
    return schedule(
        settings.schedule,
        settings.learning_rate,
        steps=settings.schedule_steps,
        floor=settings.schedule_floor,
        decay_factor=settings.decay_factor,
        decay_every=settings.decay_every,
        warmup_steps=settings.warmup_steps,
    )


def open_clips(settings: ClassifySettings) -> tuple[Clips, Clips, Clips]:
    """Open labelled clips for training, validation and test.

    Actions of different splits share no digit. Percepts are split by recording: one fold is the
    test, another is for validation, and the others give at most `labels` clips of each class.
    Raises ConfigError.
    """
    if settings.source == "percepts":
        return _percept_clips(settings)
    counts = {"train": settings.labels, "validation": settings.validation, "test": settings.test}
    train, validation, test = (
        Actions(
            split_digits(settings.digits, split), settings.frame_size, settings.length,
            seed_of(split, settings.seed), settings.changes,
        ).clips(count)
        for split, count in counts.items()
    )  # fmt: skip
    return train, validation, test


def _percept_clips(settings):
    fold, folds = settings.fold, settings.folds
    if not settings.path:
        raise ConfigError("expected the folder of percepts, got none: name it by --path")
    if fold >= folds:
        raise ConfigError(
            f"expected --fold 0 to {folds - 1}, one of {folds} folds, got {fold}: choose one of "
            "those"
        )
    clips = read_percepts(settings.path)
    clips = clips.select(clips.labels >= 0)
    if not len(clips):
        raise ConfigError(
            f"{settings.path}: expected clips with labels, got none: extract them with their "
            "classes"
        )
    expect_classes(clips)
    rest, test = (clips.select(n) for n in list(grouped_folds(clips.groups, folds))[fold])
    train, validation = next(grouped_folds(rest.groups, folds - 1))
    train = train[few_per_class(rest.labels[train], settings.labels, settings.seed)]
    return rest.select(train), rest.select(validation), test


def read_config(run: str | Path, cell: str | None = None) -> Config:
    """Return the settings of a run folder, or of the trained model of this name.

    `cell` says FILE.py:CLASS for a run with a cell of the user's own, whose file was moved or
    changed. Raises RunError for a folder that is no run, or that holds the file of its cell.
    """
    run = find_run(run)
    config = from_toml(run / "config.toml")
    if cell is not None:
        config = with_cell(config, cell, run)
    refuse_inside(config, run)
    return config


def load_run(
    run: str | Path, best: bool = False, cell: str | type[Recurrent] | None = None
) -> models.EncoderDecoder:
    """Return the trained model of a run folder, ready for `rollout` and `reconstruction`.

    `run` may also be the name of a trained model in the package, "one-digit". The weights are the
    newest, or with `best` those with the smallest validation loss. A run with a cell of the user's
    own executes the file of the cell. If that file was changed or moved, give the class, or the
    text FILE.py:CLASS, as `cell`. Raises RunError for a folder that can't be loaded. Raises
    ConfigError if `cell` is no class of cells, or if the run's cell is the package's.
    """
    model, _ = read_run(run, best, cell)
    return model


def read_run(
    run: str | Path, best: bool = False, cell: str | type[Recurrent] | None = None
) -> tuple[models.EncoderDecoder, dict]:
    """Return the model that `load_run` returns, and the description in its checkpoint.

    The description holds the step, the seconds of training, the settings and more. Both are read at
    once, because a run that still trains may replace the file at any moment. The best weights have
    the settings and the fingerprints of the data from the checkpoint beside them. Raises RunError
    if config.toml has other settings than the run was trained with, and what `load_run` raises.
    """
    run = find_run(run)
    config = read_config(run, cell if isinstance(cell, str) else None)
    if cell is not None and not isinstance(cell, str):
        expect_class(cell)
        expect_own_cell(config, cell, run)
    path = Path(run) / ("best.safetensors" if best else "checkpoint.safetensors")
    if best and not path.exists():
        raise RunError(
            f"expected {path}, got no such file: leave --best out, or copy the file there"
        )
    arrays, about = checkpoint.read(path)
    if best:
        about = _shared_description(run) | about
    _expect_same_settings(run, config, about, but=() if cell is None else ("model.cell",))
    for name, least in (("D", 1), ("step", 0)):
        number = about.get(name)
        if type(number) is not int or number < least:
            raise RunError(
                f"{path}: expected {name} >= {least} in it, got {number!r}: use another checkpoint"
            )
    D = about["D"]
    least, found = _least_numbers(config, D), sum(array.size for array in arrays.values())
    if least > found:  # refuse false sizes in small files before memory is allocated for them
        raise RunError(
            f"{path}: expected more than {least} numbers for D = {D} and the model in config.toml, "
            f"got {found}: use the configuration that it was trained with"
        )
    model = build_model(config, D, cell=cell if isinstance(cell, type) else None)
    checkpoint.fill(model, arrays, path)
    return model, about


def other_settings(
    before: Config, after: Config, but: tuple[str, ...] = (), may_move: bool = True
) -> list[str]:
    """Describe what `after` sets differently, if it changes what a run computes.

    Settings that may change when a run is resumed are left out, such as `run.keep`. So are places
    of the data, and of the file of a cell. `but` names more settings to leave out. With
    `may_move=False` another file or folder of data is reported, because its bytes are unknown.
    Folders of MNIST's digits may always move, because only the original files are accepted. The
    bundled digits are other data.
    """
    free = [*FREE, *but]
    if "bundled" not in (before.data.digits, after.data.digits):
        free.append("data.digits")
    if may_move:
        free.append("data.path")
    if may_move and before.data.source.endswith(".npy") and after.data.source.endswith(".npy"):
        free.append("data.source")
    old, new = before.model.cell_file, after.model.cell_file
    if old and new and (old.name, old.sha256) == (new.name, new.sha256):
        free.append("model.cell")
    return differences(before, after, free)


def _shared_description(run):
    """Return the settings and the data's fingerprints in a run's newest checkpoint, if any."""
    try:
        _, about = checkpoint.read(RunFolder(run).checkpoint, arrays=False)
    except RunError:  # the best weights may be read where the checkpoint is lost
        return {}
    return {name: about[name] for name in ("config", "data") if name in about}


def _expect_same_settings(run, config, about, but):
    """Raise RunError if config.toml has other settings than the checkpoint of the run.

    Old checkpoints and imported weights have none.
    """
    if "config" not in about:
        return
    where = RunFolder(run)
    try:
        saved = from_toml(str(about["config"]))
    except ConfigError as error:
        raise RunError(
            f"{where.checkpoint}: expected the settings of a run, got unreadable ones ({error}): "
            "use another checkpoint, or the version of minilstm that made it"
        ) from error
    # a run that is extended, or resumed by force, has new settings. Its next checkpoint has them.
    changed = other_settings(saved, config, but=(*HOW, *but))
    if changed and not where.is_training():
        raise RunError(
            f"{where.config}: expected the settings that {run} was trained with, got "
            f"{'; '.join(changed)}: restore them there"
        )


def expect_data(run: str | Path, config: Config) -> None:
    """Raise RunError if a run's data are missing. The message names a remedy."""
    place, flag = _missing_data(config)
    if place:
        raise RunError(
            f"{place}: expected the data that {run} was trained on, got none: restore them, or "
            f"record their new place by python -m minilstm.train --resume {shell_word(run)} {flag} "
            "(of finished runs, too)"
        )


def expect_same_data(run: str | Path, config: Config, about: dict) -> None:
    """Raise RunError if a run's data files are not those that it was trained on.

    `about` is the description in its checkpoint. Nothing is checked for generated data, which have
    no files, and for old or imported runs, which have no fingerprints.
    """
    there = data_fingerprints(config)
    if changed := other_data(about.get("data", {}), there):
        raise RunError(
            f"{config.data.path or config.data.source}: expected the data that {run} was trained "
            f"on, got other {', '.join(changed)}: restore them, or train a run on the new ones"
        )


def _missing_data(config):
    """Return the place of a run's data and the flag that names it; ("", "") if something is there.

    Only existence is checked. Whoever reads the data finds other faults.
    """
    data = config.data
    if data.source == "percepts":
        place, flag, there = data.path, "--path FOLDER", Path(data.path, "features.h5")
    elif data.source == "patches":
        place, flag, there = data.path, "--path FILE", Path(data.path)
    elif data.source.endswith(".npy"):
        place, flag, there = data.source, "--data FILE.npy", Path(data.source)
    elif data.digits != "bundled":
        name, _ = MD5["test", "images"]
        place, flag, there = data.digits, "--digits DIR", find_idx(Path(data.digits), name)
    else:
        return "", ""
    return ("", "") if there and os.path.exists(there) else (place, flag)


def other_data(known: dict[str, str], there: dict[str, str]) -> list[str]:
    """Return the roles in which two results of `data_fingerprints` differ.

    There are none if no fingerprints are `known`, or if no file is `there`: its reader says so.
    """
    if not known or not there:
        return []
    try:
        return [role for role in known | there if known.get(role) != there.get(role)]
    except TypeError:
        return ["fingerprints"]


def _least_numbers(config, D):
    """Return a lower bound of the number of parameters.

    It is that of one gate of the encoder. A user's cell may have fewer: then only the hidden size.
    """
    hidden = config.model.hidden
    if config.model.cell_file is not None:
        return hidden
    return hidden * (D + config.model.layers * hidden)
