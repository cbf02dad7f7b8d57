"""The kit that reports are made of: pages, tables and charts. It knows no verb."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
