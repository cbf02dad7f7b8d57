"""The trait spec: its schema, its templates, and what is wrong with one."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
