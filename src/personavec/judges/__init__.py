"""Judges score how strongly an answer shows a trait, and how coherent it is.

The contrast judge and one rubric judge run a transformers model, the other rubric judge asks a
model behind an endpoint (`endpoint/`). Judges score files of answers, are tested on known answers
and are compared with each other and with people.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
