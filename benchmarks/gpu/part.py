"""One part of the run: prints a JSON object per line, as soon as it is known."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any


class Clock:
    """How much of a part's time is left."""

    def __init__(self, seconds: float, small: bool) -> None:
        self.end, self.small = time.monotonic() + seconds, small

    def left(self) -> float:
        """Seconds; negative if the time is over."""
        return self.end - time.monotonic()


def rows(part: str, clock: Clock) -> Iterator[dict[str, Any]]:
    """What the part's module measures, in its order, until the time is over."""
    works = importlib.import_module(f"benchmarks.gpu.{part.partition('_')[0]}").works(clock)
    for name, work in works:
        if clock.left() <= 0:
            yield {**name, "left_out": "no time"}
            continue
        try:
            yield {**name, **work()}
        except Exception as error:
            traceback.print_exc()
            yield {**name, "error": f"{type(error).__name__}: {str(error)[:300]}"}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser("benchmarks.gpu.part")
    parser.add_argument("part")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    for row in rows(options.part, Clock(options.seconds, options.small)):
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
