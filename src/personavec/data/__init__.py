"""Rows of data: read from files as they are stored, then as conversations.

`raw_rows` knows files, `parse_row` knows the ways in which columns hold a conversation.
"""

from personavec.data.conversations import (
    ColumnMap,
    Kind,
    Reject,
    Row,
    check_columns,
    kind_of,
    parse_row,
    row_id,
    swapped,
)
from personavec.data.files import (
    Mark,
    RawRow,
    files_of,
    fingerprint,
    is_saved_dataset,
    marks,
    raw_rows,
    read_rows,
    rows_from,
    source_name,
)
from personavec.data.messages import Message, Role
from personavec.data.questions import read_questions
from personavec.data.told import Told

__all__ = [
    "ColumnMap",
    "Kind",
    "Mark",
    "Message",
    "RawRow",
    "Reject",
    "Role",
    "Row",
    "Told",
    "check_columns",
    "files_of",
    "fingerprint",
    "is_saved_dataset",
    "kind_of",
    "marks",
    "parse_row",
    "raw_rows",
    "read_questions",
    "read_rows",
    "row_id",
    "rows_from",
    "source_name",
    "swapped",
]
