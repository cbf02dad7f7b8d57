"""Language models: loading, chat format, token ids, capture, steering and projections.

The engines in `engine/` generate text.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
