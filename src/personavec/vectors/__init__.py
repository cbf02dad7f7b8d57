"""The persona vector: the artifact, how it is estimated, its geometry and its file formats.

Beside it lie what monitoring needs of it: calibrations and drift limits.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
