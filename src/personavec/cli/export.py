"""personavec export"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from personavec.cli.groups import PrintOptions
from personavec.options import options
from personavec.results import dump
from personavec.runs import check_writable


@options()
@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Which vector, and in which form."""

    vectors: str
    """A vector's folder or a bundled name."""
    to: Annotated[Literal["pt", "gguf", "vllm-lens", "hotwire"], Parameter(name="--format")]
    """pt is the reference project's, gguf llama.cpp's."""
    out: Path
    """File to write."""
    layer: int | None = None
    """Default: the selected one."""
    coefficient: float = 1.0
    """Multiple of the vector to steer with."""
    all_layers: bool = False
    """Every layer in one gguf file, to choose later."""

    def __post_init__(self) -> None:
        check_writable("--out", self.out, is_file=True)


def command(*, chosen: ExportOptions, output: PrintOptions = PrintOptions()) -> None:
    """Write a vector as a file of another tool, and show the command that uses it.

    Example: `personavec export --vectors humorous --format gguf --out humorous.gguf`
    """
    from personavec.runs import lock_file
    from personavec.vectors import check_layer, export, load_vector
    from personavec.vectors.terminal import show

    vector = load_vector(chosen.vectors)
    check_layer(chosen.layer, [vector])
    with lock_file(chosen.out):
        found = export(
            vector,
            chosen.out,
            chosen.to,
            layer=chosen.layer,
            coefficient=chosen.coefficient,
            all_layers=chosen.all_layers,
        )
    output.tell(dump(found), lambda: show(found))
