"""How long work shows itself on standard error: a bar or, without a terminal, a line now and then."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import track

INTERVAL = 30.0  # seconds between lines, where there is no terminal


def watched(what: str) -> Callable[[Iterable[Any], int], Iterator[Any]]:
    """A function of parts and their number, that yields them one by one and shows how far they are."""

    def shown(parts: Iterable[Any], total: int) -> Iterator[Any]:
        console = Console(stderr=True)
        if console.is_terminal:
            yield from track(parts, what, total, console=console, transient=True)
            return
        said = time.monotonic()
        for i, part in enumerate(parts):
            if time.monotonic() - said > INTERVAL:
                said = time.monotonic()
                print(f"{what}  {i / total:.0%}", file=sys.stderr, flush=True)
            yield part

    return shown
