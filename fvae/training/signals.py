"""Signals that end a training wait for the end of a step, when it can be kept."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM instead of acting on it, which the end of the block does.

    A second one acts at once. Ignored signals stay ignored; outside the main thread nothing is deferred.
    """
    received: list[int] = []
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in SIGNALS if in_main_thread}
    handlers = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def collect(number: int, _: object) -> None:
        received.append(number)
        restore()

    for number in handlers:
        signal.signal(number, collect)
    try:
        yield received
    finally:
        restore()
    for number in received:
        signal.raise_signal(number)
