"""A trait spec, written by a strong model from a name and a description.

A draft is linted, tried on the user's own model, and repaired until both are content.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
