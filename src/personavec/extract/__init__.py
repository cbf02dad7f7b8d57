"""From a trait spec to a persona vector: rollouts, vector, layer and validation.

Also vectors from rollouts that others made (`adopt`) and from other projects' files
(`import_reference`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
