"""Rows of data: read from files as they are stored, then as conversations.

`raw_rows` knows files; `parse_row` knows the ways in which columns hold a conversation.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
