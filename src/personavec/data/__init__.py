"""Rows of data: `files/` reads them as they are stored, `readers/` finds the conversation in them.

`raw_rows` yields rows as they are stored, `parse_row` makes conversations of them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
