"""A stopwatch that can be stopped and started again."""

import time


class Stopwatch:
    """Sums the seconds between each start and stop."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """The sum until now."""
        return self._sum + (0.0 if self._started is None else time.perf_counter() - self._started)

    def start(self) -> None:
        """Start, if stopped."""
        if self._started is None:
            self._started = time.perf_counter()

    def stop(self) -> None:
        """Stop, if running."""
        self._sum, self._started = self.seconds, None

    def restart(self) -> None:
        """Reset the sum to zero. A running stopwatch continues to run."""
        self._sum = 0.0
        if self._started is not None:
            self._started = time.perf_counter()
