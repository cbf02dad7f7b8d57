"""How strongly an answer shows a trait, and how coherent it is.

A judge is local (`contrast`, `rubric`) or behind an endpoint; it can be tested on known answers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
