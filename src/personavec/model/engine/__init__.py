"""Engines: generation with steering and capture, in planned or running batches, or with vLLM."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
