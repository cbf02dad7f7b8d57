"""What `personavec doctor` prints of this installation and machine, for reports of faults.

Loads no torch and no model. What it finds names no user, and no key.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
