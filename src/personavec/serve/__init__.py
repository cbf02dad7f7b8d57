"""An OpenAI-compatible server with readings in its replies, steering, and a web page."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
