"""Judge a classifier of clips: accuracy, nats per clip, recall and confusion of the classes.

Probabilities are (N, K): N clips, K classes. Labels are (N,), indices of classes from 0 to K - 1.
The functions raise NonFiniteError for probabilities with NaN or infinity, and DataError for other
labels, such as -1, which means unlabelled.

Paper: Tables 1 and 3. Read next: baselines.py.
"""

from __future__ import annotations

import numpy as np

from ..data import Clips
from ..data.clips import expect_labels
from ..errors import number_of
from .metrics import expect_finite


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of clips whose most probable class is their label."""
    _check(probabilities, labels)
    return float((probabilities.argmax(axis=1) == labels).mean())


def nats_per_clip(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean cross-entropy in nats per clip with p >= 1e-12."""
    _check(probabilities, labels)
    p = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(p, 1e-12)).mean())


def confusion(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Count clips by class (row) and predicted class (column): (K, K)."""
    _check(probabilities, labels)
    counts = np.zeros((probabilities.shape[1],) * 2, int)
    np.add.at(counts, (labels, probabilities.argmax(axis=1)), 1)
    return counts


def _check(probabilities, labels):
    expect_finite(probabilities, "probabilities")
    expect_labels(labels, probabilities.shape[1])


def results_of(name: str, rows: dict[str, np.ndarray], test: Clips) -> dict:
    """Judge several classifiers. `rows` has the name and the probabilities (N, K) of each.

    All get accuracy and nats. The classifier `name` also gets recall and confusion by class.
    """
    counts = confusion(rows[name], test.labels)
    recalls = zip(counts.diagonal().tolist(), counts.sum(axis=1).tolist(), strict=True)
    return {
        "clips": len(test),
        "classes": list(test.classes),
        "accuracy": {name: accuracy(p, test.labels) for name, p in rows.items()},
        "nats": {name: nats_per_clip(p, test.labels) for name, p in rows.items()},
        "model": name,
        "recall": [n / N if N else None for n, N in recalls],
        "confusion": counts.tolist(),
    }


def results_table(result: dict) -> str:
    """Return the result of `results_of` as text: accuracies, then recall and confusion by class."""
    N, counts = result["clips"], np.array(result["confusion"])
    lines = [
        f"{number_of(N, 'clip')} of {len(result['classes'])} classes, not used in training",
        "",
        f"{'':<28}{'accuracy':>10}{'+-':>8}{'nats per clip':>15}",
    ]
    for name, p in result["accuracy"].items():
        error = (p * (1 - p) / N) ** 0.5
        lines.append(f"{name:<28}{p:>9.1%} {error:>8.1%}{result['nats'][name]:>14.2f}")
    width = max(map(len, result["classes"])) + 2
    lines += ["", f"{result['model']}, class by class:", ""]
    lines += [f"{'':<{width}}  recall   clips by predicted class (columns in the order of rows)"]
    for k, (name, recall) in enumerate(zip(result["classes"], result["recall"], strict=True)):
        share = "  none" if recall is None else f"{recall:>6.0%}"
        lines.append(f"{name:<{width}}  {share}   " + "".join(f"{n:>4}" for n in counts[k]))
    return "\n".join(lines)
