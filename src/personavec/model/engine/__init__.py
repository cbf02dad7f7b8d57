"""Generation with steering and capture: planned batches, a running batch, and vLLM."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
