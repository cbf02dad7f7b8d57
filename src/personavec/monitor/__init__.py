"""Readings of conversations along persona vectors, from logs and from live turns.

`calibrate` makes forecasts of them; drift charts raise alarms.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
