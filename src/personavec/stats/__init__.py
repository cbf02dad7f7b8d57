"""Intervals and comparisons over rollouts, which are not independent of each other.

Rollouts of one question resemble each other, so intervals resample questions (clusters), not
rollouts. Every function is deterministic given its seed. Missing values are refused: leave them
out and count them first.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
