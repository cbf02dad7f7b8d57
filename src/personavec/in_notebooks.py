"""What shows itself in a notebook."""

from __future__ import annotations


class InNotebooks:
    """A value that a notebook shows as a card, drawn by `personavec.notebook` when it is asked."""

    def _repr_html_(self) -> str:
        # The one import that points up: a notebook's cards are made of everything below it.
        from personavec.notebook import card_of

        return card_of(self)
