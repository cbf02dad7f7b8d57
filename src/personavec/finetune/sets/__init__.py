"""Finetuning sets for defensive research: a trait at three levels, or mistakes of one kind.

Each says what it is; none holds instructions for real harm.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
