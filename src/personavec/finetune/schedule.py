"""A coefficient that follows a schedule over a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from personavec.errors import UsageError


@dataclass(frozen=True)
class Schedule:
    """Coefficients at points of the run, from 0 (start) to 1 (end).

    The coefficient is linear between the points, and constant before the first and after the last.

    >>> Schedule(((0.0, 2.0), (0.8, 2.0), (1.0, 3.0))).at(0.9)
    2.5
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        shares = [share for share, _ in self.points]
        if not self.points or any(b <= a for a, b in pairwise(shares)):
            raise UsageError(f"schedule {self}: shares of the run must increase")
        if not all(0 <= share <= 1 for share in shares):
            raise UsageError(f"schedule {self}: shares of the run must be between 0 and 1")
        if not all(math.isfinite(coefficient) for _, coefficient in self.points):
            raise UsageError(f"schedule {self}: a coefficient is not a finite number")

    @classmethod
    def constant(cls, coefficient: float) -> Schedule:
        return cls(((0.0, float(coefficient)),))

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Parse `2`, or `SHARE:COEFFICIENT` points such as `0:2,0.8:2,1:3`. Raises UsageError."""
        try:
            if ":" not in text:
                return cls.constant(float(text))
            pairs = [point.split(":") for point in text.split(",")]
            return cls(tuple((float(share), float(coefficient)) for share, coefficient in pairs))
        except ValueError as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(
                f"{text}: give a number, or SHARE:COEFFICIENT points such as 0:2,0.8:2,1:3, "
                "where a share is between 0 and 1"
            ) from None

    @property
    def is_constant(self) -> bool:
        return len({coefficient for _, coefficient in self.points}) == 1

    @property
    def highest(self) -> float:
        return max(coefficient for _, coefficient in self.points)

    @property
    def lowest(self) -> float:
        return min(coefficient for _, coefficient in self.points)

    def at(self, share: float) -> float:
        """The coefficient after this share of the run's steps."""
        (first, value), *_ = self.points
        if share <= first:
            return value
        for (a, low), (b, high) in pairwise(self.points):
            if share <= b:
                return low + (high - low) * (share - a) / (b - a)
        return self.points[-1][1]

    def times(self, factor: float) -> Schedule:
        """The same schedule with every coefficient multiplied by `factor`."""
        return Schedule(tuple((share, factor * coefficient) for share, coefficient in self.points))

    def __str__(self) -> str:
        if len(self.points) == 1:
            return f"{self.points[0][1]:g}"
        return ",".join(f"{share:g}:{coefficient:g}" for share, coefficient in self.points)
