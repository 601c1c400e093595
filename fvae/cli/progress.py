"""How long work shows itself on standard error: a bar or, without a terminal, a line now and then."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import track

INTERVAL = 30.0  # seconds between lines, where there is no terminal


def with_progress(text: str, parts: Iterable[Any], total: int) -> Iterator[Any]:
    """The parts one by one, showing how many of them are done."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(parts, text, total, console=console, transient=True)
        return
    began = printed = time.monotonic()
    for i, part in enumerate(parts):
        if time.monotonic() - printed > INTERVAL:
            printed = time.monotonic()
            minutes = (printed - began) * (total / max(i, 1) - 1) / 60
            print(f"{text}  {i / total:.0%}, {minutes:.1f} min left", file=sys.stderr, flush=True)
        yield part
