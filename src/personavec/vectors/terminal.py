"""What `export` prints for people."""

from __future__ import annotations

from personavec.terminal import console, print_text
from personavec.vectors.formats import Exported


def show(found: Exported) -> None:
    """What the file holds, and how to use it in its tool."""
    layers = found.layers
    held = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"
    print_text(f"{found.trait} of {found.model}, {held}, written to {found.out}")
    for note in found.notes:
        print_text(f"note: {note}")
    console.print("use it with:")
    for line in found.use:
        console.print(line, soft_wrap=True)
