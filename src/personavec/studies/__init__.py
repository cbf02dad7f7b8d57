"""Studies: verbs made of verbs. What several of them share is in `cells`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
