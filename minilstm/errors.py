"""One family of exceptions. A message says in one line: expected, got, what to do.

Command lines catch `MinilstmError`, print its line and exit with status 2.
"""

from numbers import Integral


class MinilstmError(Exception):
    """Base of all errors that minilstm raises on purpose."""


class ShapeError(MinilstmError, ValueError):
    """An array of the wrong shape or dtype."""


class ConfigError(MinilstmError, ValueError):
    """A setting that is unknown, of the wrong type, or out of range."""


class DataError(MinilstmError, ValueError):
    """A data file that is missing, damaged, or not what it says it is."""


class BackendError(MinilstmError, RuntimeError):
    """An array library or device that is missing or broken."""


class RunError(MinilstmError, RuntimeError):
    """A run folder or checkpoint that can't be read, written or overwritten."""


class StaleCache(MinilstmError, RuntimeError):  # noqa: N818  (named after its cause)
    """A cache that was given to `backward` a second time. The first call consumes it."""


class NonFiniteError(MinilstmError, ArithmeticError):
    """A loss or gradient that is not a finite number."""


def whole_number(name: str, value: int, at_least: int) -> int:
    """Return `value` as an int. Raises ConfigError unless it is a whole number >= `at_least`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ConfigError(f"expected a whole number for {name}, got {value!r}: pass an int")
    if value < at_least:
        raise ConfigError(f"expected {name} >= {at_least}, got {value}: raise {name}")
    return int(value)


def one_line(error: BaseException | str) -> str:
    """Return the text of another library's exception in one line, to quote in a message."""
    said = getattr(error, "strerror", None) or str(error) or repr(error)
    return " ".join(str(said).split())[:160]


def named(error: BaseException) -> str:
    """Return the type and the text of an exception in one line: `KeyError ('patches')`."""
    return f"{type(error).__name__} ({one_line(error)})"


def number_of(n: float, noun: str, form: str = "") -> str:
    """Return a number with its noun: `1 step`, `5 steps`, `2 batches`; form "," gives `5,000`."""
    ending = "" if n == 1 else "es" if noun.endswith(("s", "ch")) else "s"
    return f"{n:{form}} {noun}{ending}"
