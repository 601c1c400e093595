"""The two kinds of errors of one line: a mistake in what was given, and a fault of the machine."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """A value that can't be used: which ``argument`` (or file), what was expected, and what was found.

    The library raises it like any ``ValueError``. The command prints it in one line, with the flag instead of the
    argument's name, and exits with status 2.

    Example:
        >>> fvae.Glow(depth=0)
        Traceback (most recent call last):
            ...
        fvae.errors.InputError: depth: input should be greater than or equal to 1, found 0
    """

    def __init__(self, message: str, argument: str = ""):
        super().__init__(f"{argument}: {message}" if argument else message)
        self.message, self.argument = message, argument


@contextmanager
def within(prefix: str) -> Iterator[None]:
    """Name the argument of an ``InputError`` as one of ``prefix``: ``flow`` of a decoder is ``decoder.flow``."""
    try:
        yield
    except InputError as error:
        raise InputError(error.message, f"{prefix}.{error.argument}" if error.argument else prefix) from None


class MachineError(OSError):
    """A fault of the machine, such as a full disk: one line, exit status 1.

    Example:
        >>> issubclass(fvae.MachineError, OSError)
        True
    """


def one_line(error: Exception) -> str:
    """What an exception of another library says, in short."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:160] or type(error).__name__


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "did you mean ...? ", where a known word begins with this one or is near it."""
    known = list(known)
    near = [name for name in known if name.startswith(word) and name[len(word)] not in "."] if len(word) > 2 else []
    near = sorted(near, key=len) or difflib.get_close_matches(word, known, 1)
    return f"did you mean {near[0]}? " if near else ""
