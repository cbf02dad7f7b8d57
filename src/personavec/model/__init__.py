"""Model access: loading, chat templates, blocks, capture, steering, and the engine that decodes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
