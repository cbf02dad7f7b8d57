"""Which datasets and which rows would push a model along a trait, before it is trained.

A row's score is the projection of its response minus that of the model's natural response.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
