"""Readings of conversations along persona vectors, from logs and from live turns.

Control charts raise drift alarms; `calibrate` turns readings into forecasts of expression.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
