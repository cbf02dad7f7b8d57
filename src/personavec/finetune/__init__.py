"""Finetuning with a mitigation, above all preventative steering; drift is read as it trains.

`sets/` writes the finetuning sets that experiments need.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
