"""The errors xconv raises.

Every one is an `XconvError`, and also the built-in that a user of SciPy would catch.
A message names the subject, what was given, what was expected, and the way out.
"""

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "BackendUnavailable",
    "MemoryLimitError",
    "MethodRefused",
    "XconvError",
]


class XconvError(Exception):
    """Base class of everything xconv raises on purpose."""


class ArgumentError(XconvError, ValueError):
    """A value that cannot be used: a wrong shape, letter, size, name or number."""


class ArgumentTypeError(XconvError, TypeError):
    """A value of the wrong type: an object or masked array, a float stride, a lossy dtype."""


class MethodRefused(XconvError, ValueError):
    """A method was forced that cannot compute this problem; the message gives its reason."""


class MemoryLimitError(XconvError, MemoryError):
    """`max_memory` is too small for any method; the message gives the least that would do."""


class BackendUnavailable(XconvError, RuntimeError):
    """No backend can take this array; the message says why and what to install."""
