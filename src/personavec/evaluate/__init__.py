"""How strongly a model shows traits, and what it can still do.

Beside the measurement itself: answers at several coefficients side by side (`steer`), and what a
finetune did to a model (`shift`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
