"""A screen's rows on a Ray cluster. The scores are those of a single machine."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
