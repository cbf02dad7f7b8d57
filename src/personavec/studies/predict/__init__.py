"""Whether what is read from data before training predicts what training does.

Run by `scripts/predict.py`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
