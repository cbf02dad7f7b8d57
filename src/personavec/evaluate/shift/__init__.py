"""What a finetune did to a model's traits: the finetuning shift, and the expression beside it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
