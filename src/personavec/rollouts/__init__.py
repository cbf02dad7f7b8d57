"""Responses to a trait's questions: generated, judged and filtered.

Also what models say without a trait: neutral and natural responses. And how strongly a group of
rollouts shows a trait, with intervals.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
