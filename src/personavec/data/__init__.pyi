from .conversations import (
    UNFINISHED_THOUGHT as UNFINISHED_THOUGHT,
    ColumnMap as ColumnMap,
    DataRow as DataRow,
    Kind as Kind,
    Reject as Reject,
    check_columns as check_columns,
    kind_of as kind_of,
    parse_row as parse_row,
    row_id as row_id,
    swapped as swapped,
)
from .files.hugging_face import is_saved_dataset as is_saved_dataset
from .files.marks import Mark as Mark, marks as marks, rows_from as rows_from
from .files.source import (
    files_of as files_of,
    fingerprint as fingerprint,
    raw_rows as raw_rows,
    read_rows as read_rows,
    source_name as source_name,
)
from .messages import THOUGHT as THOUGHT, Message as Message, Role as Role, role_of as role_of
from .parts import group_values as group_values, matrix as matrix
from .questions import read_questions as read_questions
from .raw import RawColumns as RawColumns, RawRow as RawRow
from .reading_counts import (
    DataReading as DataReading,
    ReadingCounts as ReadingCounts,
    reading_counts_in as reading_counts_in,
    reading_text as reading_text,
    reason_kind as reason_kind,
)
from .thoughts import (
    FORMATS as FORMATS,
    ThinkingFormat as ThinkingFormat,
    split_thought as split_thought,
)
from .windows import (
    STRETCH as STRETCH,
    Stretch as Stretch,
    in_windows as in_windows,
    stretches as stretches,
)
