"""How far long work other than training is: a bar or, without a terminal, a line now and then."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Part = TypeVar("Part")

LINE_EVERY = 30.0  # seconds, where there is no terminal


def watched(parts: Iterable[Part], total: int, what: str) -> Iterator[Part]:
    """The parts, of which there are ``total``, one by one, and on standard error how far they are."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(parts, what, total, console=console, transient=True)
        return
    told = time.monotonic()
    for i, part in enumerate(parts):
        if time.monotonic() - told > LINE_EVERY:
            told = time.monotonic()
            print(f"{what}  {i / total:.0%}", file=sys.stderr, flush=True)
        yield part
