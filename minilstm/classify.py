"""Recognise actions: does an encoder that was trained without labels help where labels are few?

    python -m minilstm.train actions --out runs/actions         without labels
    python -m minilstm.classify --init-from runs/actions        ten labelled clips of each class
    python -m minilstm.classify --encoder scratch               the same without the first run
    python -m minilstm.classify --data percepts --path FOLDER --init-from RUN

The LSTM says at every step what it takes the clip for (models.py: `Classifier`); the loss is that
of every step. A clip's probabilities are the mean over the steps of a window, then over its
windows. `classify_step` is the learning, `fit` brings the batches and stops early.

    fitted = fit(settings, train, validation, run)
    probabilities = fitted.predict(test)                        # (N, classes)
    accuracy(probabilities, test.labels)

Paper: section 4. Slides: "Transfer Learning for Action Recognition" (Fig 11, Fig 12, Tables 1, 3).
Read next: logistic.py, the baselines.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import config
from .backend import asarray, to_numpy, use_backend, xp
from .command import Parser, run_command
from .config import Classify
from .data import Actions, Clips, Scale, as_vectors, windows
from .data.percepts import read_percepts
from .data.rng import Purpose, keyed_rng
from .data.splits import grouped_folds
from .data.vectors import scale_of
from .errors import ConfigError, DataError, RunError
from .evaluation.logistic import choose_logistic
from .figures import panels
from .files import remove_temporaries, write_file
from .layers.init import Init
from .layers.workspace import Reused, use_workspace
from .models import Classifier
from .optim import Adam, Optimizer, clip_norm, schedule
from .runs import build
from .streams import progress_bar, warn_instead

CHUNK = 256  # windows classified at a time


def classify_step(
    classifier: Classifier,
    optimizer: Optimizer,
    x: np.ndarray,
    labels: np.ndarray,
    masks: tuple | None,
    rate: float,
    clip: float,
):
    """One update from windows x (T, B, D) of classes `labels` (B,). Returns the loss, 0-d."""
    logits, cache = classifier.forward(x, masks)
    target = xp.broadcast_to(labels, logits.shape[:2])  # the same at every step
    loss, loss_cache = classifier.loss.forward(logits, target)
    dlogits, _ = classifier.loss.backward(1.0, loss_cache)
    grad = classifier.flat().grad
    grad.fill(0)
    classifier.backward(dlogits, cache, want_dx=False)
    norm = clip_norm(grad, clip)
    optimizer.step(rate, xp.isfinite(norm + loss))
    return loss


@dataclass
class Fitted:
    """A classifier with what it needs to be asked: library, windows, the scale of its inputs."""

    backend: str
    classifier: Classifier
    scale: Scale | None
    window: int
    stride: int
    history: list[dict]  # of early stopping: step, validation loss and accuracy

    def predict(self, clips: Clips) -> np.ndarray:
        """Probabilities (N, K): the mean over steps, then over the windows of each clip."""
        which, first = windows(clips.lengths, self.window, self.stride)
        total = np.zeros((len(clips), self.classifier.readout.b.value.size))
        with use_backend(self.backend, "float32"):  # also long after `fit`
            for part in _chunks(len(which)):
                x = self._inputs(clips, which[part], first[part])
                logits, _ = self.classifier.forward(x)
                p = to_numpy(self.classifier.loss.mean(logits, out=logits)).mean(axis=0)
                np.add.at(total, which[part], p)
        return total / np.bincount(which)[:, None]

    def codes(self, clips: Clips) -> tuple[np.ndarray, np.ndarray]:
        """What the encoder says of every step of every window: (T * W, H), and the clip of each."""
        which, first = windows(clips.lengths, self.window, self.stride)
        found = []
        with use_backend(self.backend, "float32"):
            for part in _chunks(len(which)):
                x = self._inputs(clips, which[part], first[part])
                (y, _), _ = self.classifier.encoder.forward(x)
                found.append(to_numpy(y))
        return np.concatenate(found, axis=1).reshape(-1, y.shape[-1]), np.tile(which, self.window)

    def _inputs(self, clips, which, first):
        x = vectors(clips.cut(which, first, self.window), self.scale)
        return asarray(x, self.classifier.dtype)


def fit(
    settings: Classify,
    train: Clips,
    validation: Clips,
    run: str | Path | None = None,
    quiet: bool = True,
) -> Fitted:
    """Train a classifier on `train`, with an encoder from the run folder `run` (or none).

    Settings, validation, stopping: all by `validation`. The result is a function of the arguments
    alone. Raises ConfigError for a run that is missing or whose frames have another size, DataError
    for clips that are no use.
    """
    for name, clips in (("train", train), ("validation", validation)):
        if not len(clips) or (clips.labels < 0).any():
            raise DataError(
                f"expected labelled clips to {name} with, got {len(clips)} of which "
                f"{(clips.labels < 0).sum()} have no label: leave those out"
            )
    with use_backend(settings.backend, "float32"), use_workspace(Reused()):
        if run is not None and settings.encoder != "scratch":
            _expect_what_was_learned(train, run)
        scale = _scale(train, run)
        D = vectors(train.frames[:1, None], scale).shape[-1]
        classifier = build_classifier(settings, D, len(train.classes), run)
        fitted = Fitted(settings.backend, classifier, scale, settings.window, settings.stride, [])
        if settings.encoder != "scratch":
            _fit_readout(fitted, train, validation)
        if settings.encoder != "frozen":
            _fit_all(settings, fitted, train, validation, quiet)
    return fitted


def _fit_readout(fitted, train, validation):
    """The best readout of the encoder as it came: a logistic regression, to the end.

    That of a frozen one, and where finetuning begins.
    """
    parts = fitted.codes(train), fitted.codes(validation)
    logistic = _logistic(parts[0], train, parts[1], validation)
    W, b = logistic.folded()
    fitted.classifier.readout.W.value[...] = asarray(W)
    fitted.classifier.readout.b.value[...] = asarray(b)


def _fit_all(settings, fitted, train, validation, quiet):
    classifier = fitted.classifier
    optimizer = Adam(classifier.flat(), l2=settings.l2)
    rate = schedule("constant", settings.learning_rate, warmup_steps=settings.warmup_steps)
    which, first = windows(train.lengths, settings.window, settings.stride)
    best, most, since = None, (-1.0, 0.0), 0

    def validate(step):
        p = fitted.predict(validation)
        right, nats = (number(p, validation.labels) for number in (accuracy, cross_entropy))
        fitted.history.append({"step": step, "loss": nats, "accuracy": right})
        return right, -nats

    if settings.encoder == "finetuned":  # its start is the best frozen classifier
        best, most = classifier.flat().value.copy(), validate(0)
    for k in progress_bar(range(settings.steps), unit="step", quiet=quiet):
        chosen = draw_balanced(train.labels[which], settings.batch_size, settings.seed, k)
        x = fitted._inputs(train, which[chosen], first[chosen])
        labels = asarray(train.labels[which[chosen]], int)
        masks = draw_masks(settings, classifier, len(chosen), k)
        classify_step(classifier, optimizer, x, labels, masks, rate(k), settings.clip_norm)
        if (k + 1) % settings.validate_every == 0 or k + 1 == settings.steps:
            found, since = validate(k + 1), since + 1
            if found > most:
                best, most, since = classifier.flat().value.copy(), found, 0
            if since == settings.patience:
                break
    classifier.flat().value[...] = best


def draw_balanced(labels: np.ndarray, B: int, seed: int, k: int) -> np.ndarray:
    """B indices into `labels` (W,), about equally many of every label there is: of batch k."""
    rng = keyed_rng(Purpose.CLASSIFIER_BATCH, seed, k)
    present = np.unique(labels)
    wanted = np.sort(np.resize(rng.permutation(present), B))
    order = np.argsort(labels, kind="stable")
    begin, end = (np.searchsorted(labels[order], wanted, side) for side in ("left", "right"))
    return order[begin + (rng.random(B) * (end - begin)).astype(int)]


def draw_masks(settings: Classify, classifier: Classifier, B: int, k: int) -> tuple | None:
    """Dropout masks of batch k, (T, B, H) for every layer's output."""
    if settings.dropout == 0:
        return None
    layers = classifier.encoder.layers
    shape = (len(layers), settings.window, B, layers[0].H)
    masks = (
        keyed_rng(Purpose.CLASSIFIER_DROPOUT, settings.seed, k).random(shape, np.float32)
        >= settings.dropout
    )
    return tuple(asarray(mask, bool) for mask in masks)


def build_classifier(
    settings: Classify, D: int, K: int, run: str | Path | None = None
) -> Classifier:
    """A classifier of frames of D numbers into K classes, its encoder that of a run folder."""
    rng = keyed_rng(Purpose.WEIGHTS, settings.seed)
    if run is None:
        if settings.encoder != "scratch":
            raise ConfigError(
                "expected a run to take the encoder from, got none: name it by --init-from, or "
                "use --encoder scratch"
            )
        init = Init("weak-recurrence", forget_bias=1.0)
        return Classifier(
            D, settings.hidden, settings.layers, K, rng, init=init, dropout=settings.dropout
        )
    trained = build.read_config(run)
    c, i = trained.model, trained.init
    init = Init(i.weights, i.scale, i.peephole_scale, i.forget_bias)
    cell = build.CELLS[c.cell]
    classifier = Classifier(D, c.hidden, c.layers, K, rng, cell, init, settings.dropout)
    if settings.encoder != "scratch":
        copy_encoder(classifier, build.load_run(run), run)
    return classifier


def copy_encoder(classifier: Classifier, model, run: str | Path) -> None:
    """Give a classifier the encoder of a trained model, array by array. Raises ConfigError."""
    source, own = model.encoder.params(), classifier.encoder.params()
    wrong = [
        f"{name} {source[name].value.shape if name in source else 'missing'}, not {p.value.shape}"
        for name, p in own.items()
        if name not in source or source[name].value.shape != p.value.shape
    ]
    if wrong:
        raise ConfigError(
            f"expected an encoder for these clips in {run}, got {'; '.join(wrong)}: train it on "
            "frames of the same size"
        )
    for name, p in own.items():
        p.value[...] = source[name].value


def vectors(frames: np.ndarray, scale: Scale | None) -> np.ndarray:
    """Frames of clips (T, B, ...) as what a layer takes: float32 (T, B, D)."""
    if frames.dtype == np.uint8:
        return as_vectors(frames, scale)
    x = frames.astype(np.float32)
    return x if scale is None else (x - scale.mean) / scale.std


def _expect_what_was_learned(clips, run):
    """Raise ConfigError for pixels where the encoder has learned changes of pixels, or other way.

    Patches and percepts are normalised as the run has normalised them.
    """
    learned = build.read_config(run).data.source
    changes = clips.frames.dtype == np.uint8 and clips.scale is not None
    if changes != (learned == "action-changes") and learned not in ("patches", "percepts"):
        raise ConfigError(
            f"expected clips such as the encoder in {run} was trained on, {learned}, got "
            f"{'changes of' * changes} pixels: {'remove' if changes else 'add'} --changes"
        )


def _scale(train, run=None):
    """What frames are normalised by: what the run did, or the training clips' own mean and std.

    Bytes by the scale that comes with them; digits have none, and stay in [0, 1].
    """
    trained = run and build.read_config(run)
    if trained and trained.data.source in ("patches", "percepts"):
        return build.open_source(trained, "train").scale
    if train.frames.dtype == np.uint8:
        return train.scale
    return scale_of(train.frames)


# ---------------------------------------------------------------- without an LSTM


def baselines(train: Clips, validation: Clips, test: Clips) -> dict[str, np.ndarray]:
    """Probabilities (N, K) of the test clips, by name: what can be told without an LSTM.

    one frame              logistic regression of frames, asked about a clip's middle frame
    single frame           the same, the mean of its probabilities over all frames (Table 1)
    mean frame             logistic regression of the mean of a clip's frames
    size and length        logistic regression of a clip's width, height and number of frames
    most frequent class    of the training clips, always

    One frame of an action tells nothing, by design. Averaging over frames does tell something, of
    actions too: it is bold where a digit stays and timid where it goes through many places.
    """
    scale, K = _scale(train), len(train.classes)
    parts = (train, validation, test)

    def frames(clips):
        return vectors(clips.frames[:, None], scale)[:, 0], np.repeat(
            np.arange(len(clips)), clips.lengths
        )

    def means(clips):
        return mean_by(*frames(clips)), np.arange(len(clips))

    def sizes(clips):
        x = np.column_stack([clips.sizes, clips.lengths])
        return np.log(np.maximum(x, 1)), np.arange(len(clips))

    found = {}
    for name, inputs in (
        ("single frame", frames),
        ("mean frame", means),
        ("size and length", sizes),
    ):
        x, x_validation, x_test = map(inputs, parts)
        logistic = _logistic(x, train, x_validation, validation)
        p = logistic.probabilities(x_test[0])
        if name == "single frame":
            found["one frame"] = p[test.starts + test.lengths // 2]
        found[name] = mean_by(p, x_test[1])
    share = np.bincount(train.labels, minlength=K) / len(train)
    return found | {"most frequent class": np.tile(share, (len(test), 1))}


def _logistic(inputs, train, inputs_validation, validation):
    """A logistic regression of rows x (M, D), row m of clip which (M,): inputs = (x, which).

    How strong its L2 is, the validation clips say.
    """
    (x, which), (x_validation, which_validation) = inputs, inputs_validation

    def nats(logistic):
        p = mean_by(logistic.probabilities(x_validation), which_validation)
        return cross_entropy(p, validation.labels)

    return choose_logistic(x, train.labels[which], len(train.classes), nats)


def mean_by(values: np.ndarray, which: np.ndarray) -> np.ndarray:
    """The mean of the rows of values (N, ...) that belong together: which (N,) -> (M, ...)."""
    total = np.zeros((which.max() + 1, values.shape[1]))
    np.add.at(total, which, values)
    return total / np.bincount(which)[:, None]


# ---------------------------------------------------------------- judging


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The share of clips (N, K) whose likeliest class is theirs (N,)."""
    return float((probabilities.argmax(axis=1) == labels).mean())


def cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Nats per clip of probabilities (N, K) for the classes (N,)."""
    p = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(p, 1e-12)).mean())


def confusion(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How often clips of class i were taken for class j: counts (K, K)."""
    counts = np.zeros((probabilities.shape[1],) * 2, int)
    np.add.at(counts, (labels, probabilities.argmax(axis=1)), 1)
    return counts


def judge(name: str, rows: dict[str, np.ndarray], test: Clips) -> dict:
    """What is known about probabilities (N, K) of the test clips by name; more about row `name`."""
    counts = confusion(rows[name], test.labels)
    recalls = zip(counts.diagonal().tolist(), counts.sum(axis=1).tolist(), strict=True)
    return {
        "clips": len(test),
        "classes": list(test.classes),
        "accuracy": {name: accuracy(p, test.labels) for name, p in rows.items()},
        "nats": {name: cross_entropy(p, test.labels) for name, p in rows.items()},
        "model": name,
        "recall": [n / N if N else None for n, N in recalls],
        "confusion": counts.tolist(),
    }


def table(result: dict) -> str:
    """The result of `judge` as text: all rows, every class, and what it was taken for."""
    N, counts = result["clips"], np.array(result["confusion"])
    lines = [
        f"{N} clips of {len(result['classes'])} classes, none of them learned from",
        "",
        f"{'':<28}{'accuracy':>10}{'+-':>8}{'nats per clip':>15}",
    ]
    for name, p in result["accuracy"].items():
        error = (p * (1 - p) / N) ** 0.5
        lines.append(f"{name:<28}{p:>9.1%} {error:>8.1%}{result['nats'][name]:>14.2f}")
    width = max(map(len, result["classes"])) + 2
    lines += ["", f"{result['model']}, class by class:", ""]
    lines += [f"{'':<{width}}  recall   taken for (columns as rows)"]
    for k, (name, recall) in enumerate(zip(result["classes"], result["recall"], strict=True)):
        share = "  none" if recall is None else f"{recall:>6.0%}"
        lines.append(f"{name:<{width}}  {share}   " + "".join(f"{n:>4}" for n in counts[k]))
    return "\n".join(lines)


def _chunks(count):
    return (slice(n, n + CHUNK) for n in range(0, count, CHUNK))


# ---------------------------------------------------------------- the command


def open_clips(settings: Classify) -> tuple[Clips, Clips, Clips]:
    """Labelled clips to learn from, to stop by, and to judge by.

    Actions share no digit, percepts no recording: of their folds one is the test, another decides
    when to stop, and of the others every class has `labels` clips at most. Raises ConfigError.
    """
    c = settings
    if c.source == "percepts":
        if not c.path:
            raise ConfigError("expected the folder of percepts, got none: name it by --path")
        if c.fold >= c.folds:
            raise ConfigError(
                f"expected --fold 0 to {c.folds - 1}, one of {c.folds} folds, got {c.fold}: choose "
                "one of those"
            )
        clips = read_percepts(c.path)
        clips = clips.select(clips.labels >= 0)
        rest, test = (clips.select(n) for n in list(grouped_folds(clips.groups, c.folds))[c.fold])
        train, validation = next(grouped_folds(rest.groups, c.folds - 1))
        train = train[few(rest.labels[train], c.labels, c.seed)]
        return rest.select(train), rest.select(validation), test
    counts = {"train": c.labels, "validation": c.validation, "test": c.test}
    return tuple(
        Actions(
            build.split_digits(c.digits, split), c.frame_size, c.length,
            build.seed_of(split, c.seed), c.changes,
        ).clips(count)
        for split, count in counts.items()
    )  # fmt: skip


def few(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Indices of `per_class` clips of every label (N,) there is, or of all where there are fewer.

    Drawn by `seed`; more of them include the same ones.
    """
    order = keyed_rng(Purpose.LABELLED_CLIPS, seed).permutation(len(labels))
    return np.sort(
        np.concatenate([order[labels[order] == k][:per_class] for k in np.unique(labels)])
    )


NAMES = ("results.json", "table.txt", "confusion.png")


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m minilstm.classify",
        usage="%(prog)s [--init-from RUN] [--out FOLDER] [--SETTING VALUE ...]",
        description="Recognise actions, from a few labelled clips, by an encoder that was trained "
        "without labels; beside it, what can be told without an LSTM. Takes seconds; a start that "
        "was interrupted is simply made again.",
    )
    parser.add_argument(
        "--init-from", metavar="RUN", help="a run folder of minilstm.train, for its encoder"
    )
    parser.add_argument(
        "--out", metavar="FOLDER", help="for the results (default: runs/classify-ENCODER-SEED)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite results that are there")
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    config.add_section(parser, "classify", Classify)
    options = parser.parse_args(arguments)
    settings = Classify(**config.given(options, "classify"))
    default = f"runs/classify-{settings.encoder}-{settings.seed}"
    out = Path(default if options.out is None else options.out)
    _refuse(out, options.force)
    train, validation, test = open_clips(settings)
    fitted = fit(settings, train, validation, options.init_from, options.quiet)
    name = f"LSTM, {settings.encoder}"
    rows = {name: fitted.predict(test)} | baselines(train, validation, test)
    result = judge(name, rows, test)
    text = table(result)
    about = {"settings": dataclasses.asdict(settings), "init_from": options.init_from}
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"expected to make the folder {out}, got {error.strerror!r}: choose another --out"
        ) from error
    with warn_instead("there is no confusion.png"):
        panels.confusion(np.array(result["confusion"]), test.classes, out / "confusion.png", name)
    write_file(out / "table.txt", text + "\n")
    result = about | result | {"history": fitted.history}
    write_file(out / "results.json", json.dumps(result, indent=1))
    if not options.quiet:
        print(text)
    return 0


def _refuse(out, force):
    try:
        others = {path.name for path in out.iterdir()} if out.exists() else set()
    except OSError as error:
        raise RunError(
            f"expected --out to name a folder, got {out} ({error.strerror}): choose another"
        ) from error
    hidden = {name for name in others if name.startswith(".")}
    if foreign := sorted(others - hidden - set(NAMES)):
        raise RunError(
            f"expected a new or empty folder, got {out} with {foreign[0]} in it: choose another "
            "--out"
        )
    if "results.json" in others and not force:  # which is written last
        raise RunError(
            f"expected a new or empty folder, got {out}, which holds results: choose another "
            "--out, or overwrite them with --force"
        )
    remove_temporaries(out)  # of a command that was killed


if __name__ == "__main__":
    sys.exit(run_command(main))
