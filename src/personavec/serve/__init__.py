"""An OpenAI-compatible server whose replies carry readings and can be steered, with a page."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
