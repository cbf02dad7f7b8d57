"""Monitor conversations along persona vectors, in logs and live.

Control charts raise drift alarms; `calibrate` fits forecasts of a trait's expression.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
