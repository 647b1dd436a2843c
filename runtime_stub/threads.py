"""The runtime's own threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

STACK_NBYTES = 512 << 10
"""Address space of a thread's stack; what one does takes some 10 KB of it."""


def started(work: Sequence[Callable[[], None]], purpose: str) -> list[threading.Thread]:
    """Threads with small stacks, one for each piece of work, named after `purpose`."""
    threads = [
        threading.Thread(target=target, name=f"occ-{purpose}-{index}", daemon=True)
        for index, target in enumerate(work)
    ]
    before = threading.stack_size(STACK_NBYTES)
    try:
        for thread in threads:
            thread.start()
    finally:
        threading.stack_size(before)
    return threads
