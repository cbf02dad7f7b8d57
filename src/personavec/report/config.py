"""The options of a report's charts; loads no matplotlib before they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from personavec.options import GENERAL, options
from personavec.runs import check_writable
from personavec.terminal import log
from personavec.wording import plural

if TYPE_CHECKING:
    from personavec.report.plots import Plot

R = TypeVar("R")


@options(GENERAL)
@dataclass(frozen=True)
class FigureOptions:
    """The report's charts, for a paper."""

    figures: Path | None = None
    """Save the report's charts in this folder, as SVG, PNG and CSV."""

    def __post_init__(self) -> None:
        """Raise StorageError or PersonavecError for what could not be saved, before the work."""
        if self.figures is not None:
            from personavec.report.plots import check_drawable

            check_writable("--figures", self.figures, is_file=False)
            check_drawable()

    def save(self, plots: Callable[[R], Sequence[Plot]], results: R) -> None:
        """Save the charts of results, if a folder is named. Raises StorageError."""
        if self.figures is not None:
            from personavec.report.plots import save

            log(
                f"figures: {plural(len(save(plots(results), self.figures)), 'file')} written to "
                f"{self.figures}"
            )
