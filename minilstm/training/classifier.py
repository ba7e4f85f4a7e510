"""Train a classifier of clips, from an encoder that was trained without labels or from scratch.

The classifier gives class probabilities at every step, and every step has its loss. The
probabilities of a clip are the mean over the steps of a window, then over the windows of the clip.
`classify_step` is one update. `fit` draws the batches and stops early.

    fitted = fit(settings, train, validation, run)
    probabilities = fitted.predict(test)                        # (N, classes)
    accuracy(probabilities, test.labels)

Paper: "Action Recognition on UCF-101/HMDB-51". Slides: "Transfer Learning for Action Recognition"
(Fig 11, Fig 12, Tables 1, 3). Read next: evaluation/baselines.py.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import threads
from ..backend import asarray, current_backend, to_numpy, use_backend, xp
from ..config import ClassifySettings
from ..data import Clips, Scale, windows
from ..data.clips import clip_vectors, scale_of_clips
from ..data.rng import Purpose, keyed_rng
from ..errors import ConfigError, DataError
from ..evaluation.baselines import logistic_of_clips, mean_by
from ..evaluation.clip_scores import accuracy, nats_per_clip
from ..gpu.capture import Captured, on_stream
from ..gpu.transfers import Uploads
from ..layers.init import Init
from ..layers.workspace import Reused, use_workspace
from ..models import Classifier
from ..optim import Adam, Optimizer, clip_norm, schedule
from ..runs import build
from ..runs.trained import find_run
from ..streams import progress_bar

CHUNK_WINDOWS = 256  # classified at a time


def classify_step(
    classifier: Classifier,
    optimizer: Optimizer,
    x: np.ndarray,
    labels: np.ndarray,
    masks: tuple | None,
    rate: float | np.ndarray,
    clip: float,
):
    """Make one update from windows x (T, B, D) of classes `labels` (B,). Return the loss, 0-d."""
    logits, cache = classifier.forward(x, masks)
    target = xp.broadcast_to(labels, logits.shape[:2])  # the class is the same at every step
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
    """A trained classifier and its settings for prediction.

    backend, window, stride   as in ClassifySettings
    scale                     by which frames are normalised, or None
    history                   step, loss and accuracy of every validation
    threads                   the number of threads of the matrix products in training
    """

    backend: str
    classifier: Classifier
    scale: Scale | None
    window: int
    stride: int
    history: list[dict]
    threads: int = 1

    def predict(self, clips: Clips) -> np.ndarray:
        """Return probabilities (N, K): means over steps, then over the windows of each clip."""
        which, first = windows(clips.lengths, self.window, self.stride)
        found = []
        with use_backend(self.backend, "float32"):  # the caller may use another by now
            for part in _chunks(len(which)):
                x = self.inputs(clips, which[part], first[part])
                logits, _ = self.classifier.forward(x)
                p = self.classifier.loss.mean(logits, out=logits)
                found.append(to_numpy(p).mean(axis=0))
        return mean_by(np.concatenate(found), which)

    def outputs_of_all_steps(self, clips: Clips) -> tuple[np.ndarray, np.ndarray]:
        """Return the encoder's output at every step of every window, and the clip of each.

        They are (T * W, H) and (T * W,) for W windows of T steps.
        """
        which, first = windows(clips.lengths, self.window, self.stride)
        found = []
        with use_backend(self.backend, "float32"):
            for part in _chunks(len(which)):
                x = self.inputs(clips, which[part], first[part])
                (y, _), _ = self.classifier.encoder.forward(x)
                found.append(to_numpy(y))
        return np.concatenate(found, axis=1).reshape(-1, y.shape[-1]), np.tile(which, self.window)

    def inputs(self, clips: Clips, which: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Cut windows (T, B, D) of clips `which` (B,), each from its frame `first` (B,)."""
        return asarray(self.inputs_on_host(clips, which, first))

    def inputs_on_host(self, clips: Clips, which: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Cut the same windows (T, B, D), as a NumPy array in the classifier's dtype."""
        x = clip_vectors(clips.cut(which, first, self.window), self.scale)
        return x.astype(self.classifier.dtype, copy=False)


def fit(
    settings: ClassifySettings,
    train: Clips,
    validation: Clips,
    run: str | Path | None = None,
    quiet: bool = True,
    cell: str | None = None,
) -> Fitted:
    """Train a classifier on `train`, with the encoder of the run folder `run`, or a new one.

    `validation` alone chooses the step at which training stops, and the L2 of the logistic
    regression that starts the readout. Later training uses settings.l2. The result depends only on
    the arguments and, in its last bits, on the number of threads. Raises
    DataError for clips without labels, RunError for a `run` that is no run folder, ConfigError for
    frames of another size than the run's, or if settings.encoder needs a run and there is none.
    """
    for name, clips in (("train", train), ("validation", validation)):
        if not len(clips) or (clips.labels < 0).any():
            raise DataError(
                f"expected labelled clips ({name}), got {len(clips)}, of which "
                f"{(clips.labels < 0).sum()} have no label: leave those out"
            )
    run = None if run is None else find_run(run)  # once, so that its note is printed once
    with use_backend(settings.backend, "float32"), use_workspace(Reused()):
        if run is not None and settings.encoder != "scratch":
            _expect_what_was_learned(train, run)
        scale = _scale(train, run)
        D = clip_vectors(train.frames[:1, None], scale).shape[-1]
        classifier = build_classifier(settings, D, len(train.classes), run, cell)
        fitted = Fitted(settings.backend, classifier, scale, settings.window, settings.stride, [])
        with threads.chosen(settings.threads, _trial(settings, fitted, train)) as said:
            if said and not quiet:
                print(f"threads   {said}", file=sys.stderr, flush=True)
            fitted.threads = threads.blas().get("num_threads", 1)
            if settings.encoder != "scratch":
                _fit_readout(fitted, train, validation)
            if settings.encoder != "frozen":
                _fit_all(settings, fitted, train, validation, quiet)
    return fitted


def _trial(settings, fitted, train):
    """Return a function that makes a step without its update, to be timed."""

    def step():
        which, first = windows(train.lengths, settings.window, settings.stride)
        some = slice(settings.batch_size)
        x = fitted.inputs(train, which[some], first[some])
        logits, cache = fitted.classifier.forward(x)
        fitted.classifier.backward(logits, cache, want_dx=False)
        fitted.classifier.zero_grad()

    return step


def _fit_readout(fitted, train, validation):
    """Set the readout to a logistic regression on the encoder's outputs at every step.

    This is the whole training of a frozen encoder, and the start of finetuning.
    """
    parts = fitted.outputs_of_all_steps(train), fitted.outputs_of_all_steps(validation)
    logistic = logistic_of_clips(parts[0], train, parts[1], validation)
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
        right, nats = (number(p, validation.labels) for number in (accuracy, nats_per_clip))
        fitted.history.append({"step": step, "loss": nats, "accuracy": right})
        return right, -nats

    def step(x, labels, masks, rate):
        classify_step(classifier, optimizer, x, labels, masks, rate, settings.clip_norm)

    if settings.encoder == "finetuned":  # it starts as the best frozen classifier
        best, most = classifier.flat().value.copy(), validate(0)
    with _from_host(step, settings.graph) as step_from_host:
        for k in progress_bar(range(settings.steps), unit="step", quiet=quiet):
            chosen = draw_balanced(train.labels[which], settings.batch_size, settings.seed, k)
            x = fitted.inputs_on_host(train, which[chosen], first[chosen])
            labels = train.labels[which[chosen]].astype(int)
            masks = draw_classifier_masks(settings, classifier, len(chosen), k)
            step_from_host(x, labels, masks, np.array(rate(k)))
            if (k + 1) % settings.validate_every == 0 or k + 1 == settings.steps:
                found, since = validate(k + 1), since + 1
                if found > most:
                    best, most, since = classifier.flat().value.copy(), found, 0
                if since == settings.patience:
                    break
    classifier.flat().value[...] = best


@contextlib.contextmanager
def _from_host(step, graph):
    """Yield a function that calls `step` with arguments on the host.

    With CuPy it first brings all arguments to the GPU in one copy. With `graph` the step is also
    recorded as a CUDA graph (gpu/capture.py).
    """
    if current_backend().name == "numpy":
        yield step
        return
    uploads, run = Uploads(), Captured(step) if graph else step
    with on_stream() if graph else contextlib.nullcontext():
        yield lambda *arguments: run(*uploads.receive(uploads.send(arguments)))
        uploads.finish()


def draw_balanced(labels: np.ndarray, B: int, seed: int, k: int) -> np.ndarray:
    """Draw B indices into `labels` (W,) for batch k, about equally many of every label."""
    rng = keyed_rng(Purpose.CLASSIFIER_BATCH, seed, k)
    present = np.unique(labels)
    wanted = np.sort(np.resize(rng.permutation(present), B))
    order = np.argsort(labels, kind="stable")
    begin, end = (np.searchsorted(labels[order], wanted, side) for side in ("left", "right"))
    return order[begin + (rng.random(B) * (end - begin)).astype(int)]


def draw_classifier_masks(
    settings: ClassifySettings, classifier: Classifier, B: int, k: int
) -> tuple | None:
    """Draw the dropout masks of batch k, (T, B, H) for every layer's output, on the host."""
    if settings.dropout == 0:
        return None
    layers = classifier.encoder.layers
    shape = (len(layers), settings.window, B, layers[0].H)
    masks = (
        keyed_rng(Purpose.CLASSIFIER_DROPOUT, settings.seed, k).random(shape, np.float32)
        >= settings.dropout
    )
    return tuple(masks)


def build_classifier(
    settings: ClassifySettings,
    D: int,
    K: int,
    run: str | Path | None = None,
    cell: str | None = None,
) -> Classifier:
    """Build a classifier of frames of D numbers into K classes.

    Its encoder has the same sizes as the encoder of `run`, if there is a run. It also has the same
    weights, unless settings.encoder is "scratch". Raises ConfigError.
    """
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
    trained = build.read_config(run, cell)
    H, layers = trained.model.hidden, trained.model.layers
    cell_class, init = build.cell_of(trained), build.build_init(trained)
    classifier = Classifier(D, H, layers, K, rng, cell_class, init, settings.dropout)
    if settings.encoder != "scratch":
        copy_encoder(classifier, build.load_run(run, cell=cell), run)
    return classifier


def copy_encoder(classifier: Classifier, model, run: str | Path) -> None:
    """Copy the encoder of a trained model into a classifier, array by array. Raises ConfigError."""
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


def _expect_what_was_learned(clips, run):
    """Raise ConfigError if the encoder learned another kind of frames than `clips` has.

    The two kinds are pixels, and changes of pixels from frame to frame. Patches and percepts are
    normalised as in the run, so they always fit.
    """
    learned = build.read_config(run).data.source
    changes = clips.frames.dtype == np.uint8 and clips.scale is not None
    if changes != (learned == "action-changes") and learned not in ("patches", "percepts"):
        got = "changes of pixels: remove" if changes else "pixels: add"
        raise ConfigError(
            f"expected clips such as the encoder in {run} was trained on, {learned}, got {got} "
            "--changes"
        )


def _scale(train, run):
    """Return the scale of the run's training data if it has one, else that of the clips."""
    trained = run and build.read_config(run)
    if trained and trained.data.source in ("patches", "percepts"):
        return build.open_source(trained, "train").scale
    return scale_of_clips(train)


def _chunks(count):
    return (slice(n, n + CHUNK_WINDOWS) for n in range(0, count, CHUNK_WINDOWS))
