"""Small pieces of Markdown and of wording that all tables share, and numbers ready for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping

from .significance import Mean


def table_row(*values: object) -> str:
    """Return one line of a Markdown table."""
    return "| " + " | ".join(map(str, values)) + " |"


def plus_minus(mean: Mean, digits: int = 1) -> str:
    """Return a mean with its standard error, if it has one: `12.0 ± 0.3`."""
    error = "" if math.isnan(mean.error) else f" ± {mean.error:.{digits}f}"
    return f"{mean.mean:.{digits}f}{error}"


def percent(share: float) -> str:
    """Return a share in per cent, or a dash for NaN."""
    return "-" if math.isnan(share) else f"{round(100 * share, 1) + 0.0:.1f} %"  # no -0.0


def p_value(p: float) -> str:
    """Return a p value with three decimals, or `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def without_nan(value: object) -> object:
    """Return the same nested values with None in place of every NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: without_nan(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(x) for x in value]
    return None if isinstance(value, float) and math.isnan(value) else value
