"""The one family of exceptions: each message says what was expected, what came, and what to do.

Command lines catch `MinilstmError`, print its one line and exit with status 2.
"""


class MinilstmError(Exception):
    """Anything minilstm refuses."""


class ShapeError(MinilstmError, ValueError):
    """An array of the wrong shape or dtype."""


class ConfigError(MinilstmError, ValueError):
    """A setting that is unknown, of the wrong type, or out of range."""


class DataError(MinilstmError, ValueError):
    """A data file that is missing, damaged, or not what it says it is."""


class BackendError(MinilstmError, RuntimeError):
    """An array library or device that is not there."""


class RunError(MinilstmError, RuntimeError):
    """A run folder or checkpoint that can't be read, written or overwritten."""


class StaleCache(MinilstmError, RuntimeError):  # noqa: N818  (it names what it finds)
    """A cache given to `backward` a second time; it is consumed by the first."""


class NonFiniteError(MinilstmError, ArithmeticError):
    """A loss or gradient that is not a finite number."""


def one_line(error: BaseException | str) -> str:
    """What another library's exception says, on one line, to be quoted in a message of ours."""
    said = getattr(error, "strerror", None) or str(error) or repr(error)
    return " ".join(str(said).split())[:160]


def named(error: BaseException) -> str:
    """The same with the exception's type before it: `KeyError ('patches')`."""
    return f"{type(error).__name__} ({one_line(error)})"
