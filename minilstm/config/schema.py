"""Settings of a run: name, type, default, range and help of each, said once.

The sections are frozen dataclasses. Their defaults are those of the commands that train. A class of
the library, such as Adam, has other defaults. A value of the wrong type or out of range raises
ConfigError with one line: expected, got, what to do.

Read next: loading.py, which reads settings from TOML files and command-line flags.
"""

from __future__ import annotations

import ast
import difflib
import math
import operator
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from .. import threads
from ..errors import ConfigError
from ..files import path_of, text_of

SOURCES = ("moving-mnist", "actions", "action-changes", "patches", "percepts")
CELLS = ("peephole", "standard", "slides-lstm", "elman", "slides-rnn")


def setting(
    default,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    at_least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
    flag: str | None = None,
    metavar: str | None = None,
):
    """Make a field of a section.

    Its type is that of `default`. `flag` is its name on the command line where that differs from
    the field's. `metavar` stands for its value in the help.
    """
    limits = {">=": at_least, ">": above, "<": below, "<=": at_most}
    limits = {sign: limit for sign, limit in limits.items() if math.isfinite(limit)}
    about = {"help": help, "choices": choices, "limits": limits, "flag": flag, "metavar": metavar}
    return field(default=default, metadata=about)


def flag_of(item) -> str:
    """Return the flag of a dataclass field: `--num-digits` for `num_digits`."""
    return "--" + (item.metadata["flag"] or item.name.replace("_", "-"))


_WORDS = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
_COMPARE = {">=": operator.ge, ">": operator.gt, "<": operator.lt, "<=": operator.le}


def checked(section, item, value):
    """Return `value` if the field `item` of `section` may have it. Raises ConfigError.

    An int for a float becomes a float. A str may be the name of a file, so it is converted by
    `path_of`.
    """
    table = section.__name__.removesuffix("Settings").lower()
    name, kind, about = f"{table}.{item.name}", type(item.default), item.metadata
    bounds = " and ".join(f"{sign} {limit:.7g}" for sign, limit in about["limits"].items())
    remedy = f"set {item.name} in [{table}], or {flag_of(item)}"
    if kind is float and type(value) is int and abs(value) < 2**1023:
        value = float(value)
    if type(value) is not kind:  # not isinstance: True is no integer
        raise refusal(f"{name} {_WORDS[kind]} {bounds}".rstrip(), value, remedy)
    if kind is int and abs(value) >= 2**63:  # TOML's integers, and NumPy's, have 64 bits
        raise refusal(f"{name} an integer of 64 bits", value, remedy)
    if kind is str:
        value = path_of(value)
        if path_of(text_of(value)) != value:
            raise refusal(f"{name} in UTF-8", text_of(value), "rename it: settings are UTF-8")
    if about["choices"] and value not in about["choices"]:
        choices = ", ".join(about["choices"])
        raise refusal(f"{name} one of {choices}", value, nearest(value, about["choices"]))
    if kind is float and not math.isfinite(value):
        raise refusal(f"{name} a finite number {bounds}".rstrip(), value, remedy)
    if not all(_COMPARE[sign](value, limit) for sign, limit in about["limits"].items()):
        raise refusal(f"{name} {bounds}", value, remedy)
    return value


def nearest(word: object, known: Iterable[str], otherwise: str = "choose one of them") -> str:
    """Ask for the known name that is spelled like `word`. If there is none, return `otherwise`."""
    near = difflib.get_close_matches(str(word), list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else otherwise


def refusal(expected: str, got: object, remedy: str) -> ConfigError:
    """Return the error for a setting: expected, got (shortened), what to do."""
    try:
        shown = repr(got)
    except (RecursionError, ValueError):  # too deep a table, or too long an integer
        shown = f"one {type(got).__name__} too large to show"
    shown = shown if len(shown) <= 400 else f"{shown[:400]}..."
    return ConfigError(f"expected {expected}, got {shown}: {remedy}")


@dataclass(frozen=True)
class Section:
    """Base of the sections. It checks every value when a section is made. Raises ConfigError."""

    def __post_init__(self):
        for item in fields(self):
            value = checked(type(self), item, getattr(self, item.name))
            object.__setattr__(self, item.name, value)  # an int became a float


@dataclass(frozen=True)
class DataSettings(Section):
    """Data to learn from."""

    source: str = setting(
        "moving-mnist",
        "training data: moving-mnist, actions, action-changes (changes of pixels from frame to "
        "frame), patches, percepts, or a .npy file of sequences",
        flag="data",
        metavar="SOURCE",
    )
    path: str = setting(
        "", "the file of patches, .npy or .npz, or the folder of percepts", metavar="FILE"
    )
    stride: int = setting(
        1, "frames from one window of a video to the next, in percepts", at_least=1
    )
    digits: str = setting(
        "bundled",
        "digits of Moving MNIST and actions: bundled, or a folder of MNIST's IDX files",
        metavar="DIR",
    )
    num_digits: int = setting(2, "digits in each sequence", at_least=1)
    frame_size: int = setting(
        40, "height and width of a frame, in pixels", at_least=1, at_most=2**14
    )
    digit_size: int = setting(
        14, "height and width of a digit, in pixels", at_least=1, at_most=2**14
    )
    speed: str = setting(
        "constant",
        "speed of a digit: constant, or random for each digit",
        choices=("constant", "random"),
    )
    past: int = setting(10, "frames the encoder sees", at_least=1, at_most=2**20)
    future: int = setting(10, "frames to predict", at_least=1, at_most=2**20)


@dataclass(frozen=True)
class CellFile:
    """A class in a file of the user's own, written FILE.py:CLASS or FILE.py:CLASS@sha256:HASH.

    The hash is that of the file's bytes; "" where the user names a file, as it is now.
    """

    path: str
    name: str
    sha256: str = ""

    def __str__(self):
        return f"{self.path}:{self.name}" + (f"@sha256:{self.sha256}" if self.sha256 else "")


def cell_file(text: str) -> CellFile | None:
    """Return what FILE.py:CLASS names, or None for text of another form."""
    found = re.fullmatch(r"(.+\.py):(\w+)(?:@sha256:([0-9a-f]{64}))?", text, re.DOTALL)
    return CellFile(found[1], found[2], found[3] or "") if found else None


def refuse_no_class(text: str) -> None:
    """Raise ConfigError for FILE.py without a class, or for a wrong form of FILE.py:CLASS.

    The message names the classes in the file. The file is read, but not executed.
    """
    path = text.removesuffix(":")
    if not path.endswith(".py"):
        if ":" in text:
            remedy = "end the file name with .py, and put one colon before the class"
            raise refusal("a cell as FILE.py:CLASS", text, remedy)
        return
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        names = []
    else:
        names = [  # no decorated class: most are dataclasses that hold the arrays of a cell
            node.name
            for node in tree.body
            if isinstance(node, ast.ClassDef) and not node.decorator_list
        ]
    remedy = f"add the class, such as {path}:{names[-1] if names else 'GRU'}"
    defined = f"; the file defines {', '.join(names)}" if names else ""
    raise refusal("a cell as FILE.py:CLASS", text, remedy + defined)


@dataclass(frozen=True)
class ModelSettings(Section):
    """Architecture of the model."""

    kind: str = setting(
        "composite",
        "decoders after the encoder: reconstruction (autoencoder), future (predictor), or both",
        choices=("composite", "autoencoder", "predictor"),
        flag="model",
    )
    conditional: str = setting(
        "none",
        "decoders that are given the previous frame",
        choices=("none", "reconstruction", "future", "both"),
    )
    cell: str = setting(
        "peephole",
        "recurrent cell: the paper's LSTM, PyTorch's, the slides', the Elman RNN, the slides' RNN, "
        "or a class in a file of your own, such as mycell.py:GRU",
        metavar="|".join((*CELLS, "FILE.py:CLASS")),
    )
    layers: int = setting(
        2, "recurrent layers in the encoder, and in each decoder", at_least=1, at_most=100
    )
    hidden: int = setting(128, "units in each recurrent layer", at_least=1, at_most=2**20)
    start: str = setting(
        "step",
        "a decoder's first frame: after one step without input, or read from the copied state",
        choices=("step", "read"),
    )
    dropout: float = setting(
        0.0, "share of units dropped between layers, never in the recurrence", at_least=0, below=1
    )

    def __post_init__(self):
        super().__post_init__()
        if self.cell not in CELLS and self.cell_file is None:
            refuse_no_class(self.cell)
            raise refusal(
                f"model.cell one of {', '.join(CELLS)}, or FILE.py:CLASS",
                self.cell,
                nearest(self.cell, CELLS),
            )

    @property
    def cell_file(self) -> CellFile | None:
        """The file and class of a cell of the user's own; None for a cell of the package."""
        return cell_file(self.cell)

    @property
    def cell_name(self) -> str:
        """The name of the cell for tables and figures; of a class in a file, the class."""
        return self.cell if self.cell_file is None else self.cell_file.name


@dataclass(frozen=True)
class InitSettings(Section):
    """Initial values of the parameters. Biases that are not named here start at 0."""

    weights: str = setting(
        "weak-recurrence",
        "initial weights: uniform in +-1/sqrt(fan-in), uniform in +-scale, or as fan-in with "
        "recurrent weights a fifth as large",
        choices=("fan-in", "uniform", "weak-recurrence"),
        flag="init",
    )
    scale: float = setting(
        0.01, "bound of uniform weights", above=0, at_most=1e6, flag="init-scale"
    )
    peephole_scale: float = setting(0.0, "bound of the uniform peepholes", at_least=0, at_most=1e6)
    forget_bias: float = setting(1.0, "bias of the forget gates", at_least=-1e6, at_most=1e6)
    readout_bias: str = setting(
        "mean-image",
        "biases of the pixels: zero, or those that give the mean image of the training data",
        choices=("mean-image", "zero"),
    )


@dataclass(frozen=True)
class LossSettings(Section):
    """Loss to minimise. Reported losses are per frame, whatever these settings are."""

    reconstruction_weight: float = setting(1.0, "weight of the reconstruction loss", at_least=0)
    future_weight: float = setting(1.0, "weight of the future loss", at_least=0)
    gradient_scale: str = setting(
        "mean",
        "the gradient is that of the loss summed over frames and sequences (sum), of that sum "
        "divided by the sequences (batch_mean), or by sequences and frames (mean)",
        choices=("sum", "batch_mean", "mean"),
    )

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the losses, by the names of the model's outputs."""
        return {"reconstruction": self.reconstruction_weight, "future": self.future_weight}


@dataclass(frozen=True)
class OptimizerSettings(Section):
    """Optimizer and schedule of the learning rate."""

    rule: str = setting("adam", "update rule", choices=("adam", "rmsprop", "sgd"), flag="optimizer")
    learning_rate: float = setting(3e-3, "learning rate, before the schedule", above=0)
    momentum: float = setting(0.8, "decay of the mean gradient or velocity", at_least=0, below=1)
    mean_square_decay: float = setting(
        0.99, "decay of the mean squared gradient, in adam and rmsprop", above=0, below=1
    )
    epsilon: float = setting(1e-8, "added to the root mean square, in adam and rmsprop", at_least=0)
    l2: float = setting(
        0.0,
        "L2 penalty: this times each weight is added to its gradient; none for biases",
        at_least=0,
    )
    clip_norm: float = setting(
        5.0, "largest norm of the whole gradient; 0 for no limit", at_least=0
    )
    clamp_update: float = setting(
        0.0, "largest change of any one parameter in one update; 0 for no limit", at_least=0
    )
    schedule: str = setting(
        "cosine",
        "course of the learning rate",
        choices=("constant", "exponential", "cosine"),
    )
    schedule_steps: int = setting(
        4_800, "steps until the cosine schedule is at its floor, however long the run", at_least=1
    )
    schedule_floor: float = setting(
        0.01, "share of the learning rate where the cosine ends", at_least=0, at_most=1
    )
    warmup_steps: int = setting(100, "steps over which the learning rate first rises", at_least=0)
    decay_factor: float = setting(
        0.9, "factor of the exponential schedule, at every decay", above=0, at_most=1
    )
    decay_every: int = setting(
        10_000, "steps between the decays of the exponential schedule", at_least=1
    )


@dataclass(frozen=True)
class FeedingSettings(Section):
    """Frames that a conditional decoder is given in training: true ones, or its own."""

    inputs: str = setting(
        "truth",
        "previous frame for a conditional decoder in training: true, its own, or drawn by chance",
        choices=("truth", "own", "scheduled"),
        flag="feeding",
    )
    truth_start: float = setting(
        1.0, "scheduled feeding: chance of the true frame at first", at_least=0, at_most=1
    )
    truth_end: float = setting(
        0.0, "scheduled feeding: chance of the true frame in the end", at_least=0, at_most=1
    )
    truth_steps: int = setting(
        10_000, "scheduled feeding: steps over which the chance changes linearly", at_least=1
    )


@dataclass(frozen=True)
class RunSettings(Section):
    """Length and machine of a run, its log and its checkpoints."""

    steps: int = setting(4_800, "updates to make", at_least=1)
    minutes: float = setting(
        0.0, "stop after so many minutes, counted from each start; 0 for no limit", at_least=0
    )
    batch_size: int = setting(40, "sequences in each update", at_least=1)
    memory: str = setting(
        "full",
        "what forward keeps for backward: full keeps everything; recompute=K keeps the state of "
        "every K-th step, and backward computes the rest again. The gradient is the same, training "
        "is slower, and K near the square root of the number of frames needs the least memory",
        metavar="full|recompute=K",
    )
    tbptt: int = setting(
        0,
        "truncated back-propagation through time: steps after which the gradient is cut; 0 for "
        "never",
        at_least=0,
    )
    seed: int = setting(0, "seed of all random numbers", at_least=0)
    backend: str = setting("numpy", "array library", choices=("numpy", "cupy"))
    threads: str = setting(
        "auto",
        "threads of the matrix products on a CPU: a number, or auto, which times a few steps "
        "before the first one and takes the smallest number that is nearly the fastest; it is "
        "recorded, and --resume keeps it",
        metavar="auto|N",
    )
    precision: str = setting(
        "float32",
        "float32 or float64 for all numbers, or tf32: float32 with matrix products that use a "
        "10-bit mantissa instead of 23 bits, faster and good to 1e-3, on a GPU of 2020 or later",
        choices=("float32", "tf32", "float64"),
    )
    fused: bool = setting(
        True,
        "compute each step of an LSTM cell and the cross-entropy by kernels of their own on a GPU, "
        "not operation by operation as in cells.py and losses.py",
    )
    graph: bool = setting(
        True,
        "record the training step once as a CUDA graph and replay it, only on a GPU; otherwise its "
        "operations are launched one by one, with the same results",
    )
    log_every: int = setting(100, "steps between log lines; 0 for none", at_least=0)
    validate_every: int = setting(
        1_000, "steps between validations; 0 for one, at the end", at_least=0
    )
    checkpoint_every: int = setting(
        1_000, "steps between checkpoints; 0 for one, at the end", at_least=0
    )
    keep: int = setting(1, "checkpoints to keep, the newest and those before it", at_least=1)
    on_nan: str = setting(
        "stop",
        "after a loss or gradient that is not finite: stop, skip the update, or rewind to the "
        "last checkpoint and go on with other data",
        choices=("stop", "skip", "rewind"),
    )

    def __post_init__(self):
        super().__post_init__()
        _ = self.recompute  # raises for any other `memory`
        threads.checked(self.threads)

    @property
    def dtype(self) -> str:
        """Dtype of all arrays. tf32 is only a way to multiply float32."""
        return "float32" if self.precision == "tf32" else self.precision

    @property
    def recompute(self) -> int:
        """K of `memory` = "recompute=K", 0 for "full". Raises ConfigError otherwise."""
        if self.memory == "full":
            return 0
        if match := re.fullmatch("recompute=([1-9][0-9]{0,8})", self.memory):
            return int(match[1])
        raise refusal(
            "run.memory full or recompute=K with an integer K >= 1",
            self.memory,
            "set memory in [run], or --memory",
        )


@dataclass(frozen=True)
class ClassifySettings(Section):
    """Training of a classifier of actions, and its data."""

    source: str = setting(
        "actions",
        "labelled clips: actions, synthetic, or percepts, the features in a folder",
        choices=("actions", "percepts"),
        flag="data",
    )
    path: str = setting("", "the folder of percepts", metavar="FOLDER")
    folds: int = setting(
        5, "folds that the recordings of percepts are divided into; one is the test", at_least=3
    )
    fold: int = setting(0, "number of the fold that is the test, from 0", at_least=0)
    digits: str = setting(
        "bundled", "digits of the actions: bundled, or a folder of MNIST's IDX files", metavar="DIR"
    )
    frame_size: int = setting(24, "height and width of a frame, in pixels", at_least=1)
    length: int = setting(20, "frames of an action", at_least=1, at_most=2**20)
    changes: bool = setting(
        False, "classify the changes from frame to frame (action-changes), not the frames"
    )
    labels: int = setting(10, "labelled clips of each class to learn from", at_least=1)
    validation: int = setting(20, "validation clips of each class, for early stopping", at_least=1)
    test: int = setting(50, "test clips of each class", at_least=1)
    encoder: str = setting(
        "finetuned",
        "the encoder's weights: those of --init-from, not trained (frozen) or trained further "
        "(finetuned, from the best readout of the frozen encoder), or random ones (scratch)",
        choices=("frozen", "finetuned", "scratch"),
    )
    layers: int = setting(1, "layers of an encoder without --init-from", at_least=1, at_most=100)
    hidden: int = setting(128, "units in each of these layers", at_least=1, at_most=2**20)
    window: int = setting(16, "frames the classifier sees at a time", at_least=1, at_most=2**20)
    stride: int = setting(4, "frames from one window of a clip to the next", at_least=1)
    dropout: float = setting(
        0.2, "share of units dropped between layers and before the readout", at_least=0, below=1
    )
    learning_rate: float = setting(2e-3, "learning rate of Adam, after the warmup", above=0)
    l2: float = setting(0.0, "this times each weight is added to its gradient", at_least=0)
    clip_norm: float = setting(5.0, "largest norm of the gradient; 0 for no limit", at_least=0)
    batch_size: int = setting(
        36, "windows in each update, about equally many per class", at_least=1
    )
    steps: int = setting(600, "updates to make at most", at_least=1)
    warmup_steps: int = setting(20, "steps over which the learning rate first rises", at_least=0)
    validate_every: int = setting(20, "steps between validations", at_least=1)
    patience: int = setting(
        10, "training ends after so many validations in a row without a gain", at_least=1
    )
    seed: int = setting(0, "seed of all random numbers and of the labelled clips", at_least=0)
    backend: str = setting("numpy", "array library", choices=("numpy", "cupy"))
    graph: bool = setting(
        True,
        "record an update once as a CUDA graph and replay it, only on a GPU; otherwise its "
        "operations are launched one by one, with the same results to the bit",
    )
    threads: str = setting(
        "auto",
        "threads of the matrix products on a CPU: a number, or auto, the smallest that is nearly "
        "the fastest in a short trial",
        metavar="auto|N",
    )

    def __post_init__(self):
        super().__post_init__()
        threads.checked(self.threads)

    def conditions(self) -> tuple[tuple[str, bool, str], ...]:
        """Return conditions in the form of `Config.conditions`."""
        real, trained = self.source == "percepts", self.encoder != "frozen"
        return (
            ("--path --folds --fold", real, "--data percepts"),
            (
                "--digits --frame-size --length --changes --no-changes --validation --test",
                not real,
                "--data actions",
            ),
            (
                "--dropout --learning-rate --l2 --clip-norm --batch-size --steps --warmup-steps "
                "--validate-every --patience",
                trained,
                "--encoder finetuned or scratch",
            ),
            ("--threads", self.backend == "numpy", "--backend numpy"),
            ("--graph --no-graph", self.backend == "cupy", "--backend cupy"),
        )


@dataclass(frozen=True)
class Config:
    """All settings of one run. Each is checked alone, then together with the others.

    Raises ConfigError.
    """

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    init: InitSettings = InitSettings()
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    feeding: FeedingSettings = FeedingSettings()
    run: RunSettings = RunSettings()

    def __post_init__(self):
        data, model, loss = self.data, self.model, self.loss
        if data.source not in SOURCES and not data.source.endswith(".npy"):
            raise refusal(
                f"data.source {', '.join(SOURCES)} or a path that ends in .npy",
                data.source,
                nearest(data.source, SOURCES),
            )
        if data.path and data.source not in ("patches", "percepts"):
            raise refusal(
                f"data.path empty where data.source is {data.source}",
                data.path,
                "leave it out, or set data.source to patches or percepts",
            )
        if data.source == "moving-mnist" and data.digit_size > data.frame_size:
            raise refusal(
                f"data.digit_size <= data.frame_size ({data.frame_size})",
                data.digit_size,
                "make the digits smaller or the frames larger",
            )
        if model.conditional in ("reconstruction", "both") and model.kind == "predictor":
            raise refusal(
                "model.conditional none or future in a predictor: it reconstructs nothing",
                model.conditional,
                "change it, or model.kind to composite",
            )
        if model.conditional in ("future", "both") and model.kind == "autoencoder":
            raise refusal(
                "model.conditional none or reconstruction in an autoencoder: it predicts nothing",
                model.conditional,
                "change it, or model.kind to composite",
            )
        if self.feeding.inputs != "truth" and model.conditional == "none":
            raise refusal(
                "feeding.inputs truth where no decoder is conditional",
                self.feeding.inputs,
                "change it, or model.conditional",
            )
        if self.run.precision == "tf32" and self.run.backend == "numpy":
            raise refusal(
                "run.backend cupy for run.precision tf32, which only a GPU's products have",
                "numpy",
                "use --backend cupy, or --precision float32",
            )
        weight = {
            "autoencoder": loss.reconstruction_weight,
            "predictor": loss.future_weight,
            "composite": loss.reconstruction_weight + loss.future_weight,
        }[model.kind]
        if weight == 0:
            raise refusal(
                f"a loss weight above 0 for what the {model.kind} computes",
                0,
                "raise loss.reconstruction_weight or loss.future_weight",
            )

    def conditions(self) -> tuple[tuple[str, bool, str], ...]:
        """Return the conditions under which some settings have an effect.

        A row (flags, met, condition) is for `Parser.expect_effect`, which refuses these flags if
        the condition is not met.
        """
        data, model = self.data.source, self.model
        rule, schedule = self.optimizer.rule, self.optimizer.schedule
        drawn = data in ("moving-mnist", "actions", "action-changes")
        has_forget_gate = model.cell in ("peephole", "standard") or model.cell_file is not None
        has_peepholes = has_forget_gate and model.cell != "standard"
        sampled, on_gpu = self.feeding.inputs == "scheduled", self.run.backend == "cupy"
        return (
            ("--digits --frame-size", drawn, "--data moving-mnist, actions or action-changes"),
            ("--num-digits --digit-size --speed", data == "moving-mnist", "--data moving-mnist"),
            ("--stride", data == "percepts", "--data percepts"),
            ("--dropout", model.layers > 1, "--layers 2 or more"),
            ("--init-scale", self.init.weights == "uniform", "--init uniform"),
            ("--peephole-scale", has_peepholes, "--cell peephole or a cell of your own"),
            ("--forget-bias", has_forget_gate, "--cell peephole, standard or one of your own"),
            ("--reconstruction-weight", model.kind != "predictor", "a model that reconstructs"),
            ("--future-weight", model.kind != "autoencoder", "a model that predicts"),
            ("--mean-square-decay --epsilon", rule != "sgd", "--optimizer adam or rmsprop"),
            ("--schedule-steps --schedule-floor", schedule == "cosine", "--schedule cosine"),
            ("--decay-factor --decay-every", schedule == "exponential", "--schedule exponential"),
            ("--truth-start --truth-end --truth-steps", sampled, "--feeding scheduled"),
            ("--threads", not on_gpu, "--backend numpy"),
            ("--graph --no-graph --fused --no-fused", on_gpu, "--backend cupy"),
        )

    def to_toml(self) -> str:
        """Return all settings as TOML. `from_toml` of the text gives an equal Config."""
        import tomli_w  # imported here, because only writing needs it

        sections = asdict(self)
        for values in sections.values():
            values |= {name: text_of(v) for name, v in values.items() if isinstance(v, str)}
        return tomli_w.dumps(sections)


# "model" -> ModelSettings, ...
SECTIONS: dict[str, type[Section]] = {
    item.name: type(getattr(Config(), item.name)) for item in fields(Config)
}
