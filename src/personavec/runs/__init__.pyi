from .artifacts import (
    atomic_path as atomic_path,
    atomic_write as atomic_write,
    remove_leftovers as remove_leftovers,
    remove_leftovers_of as remove_leftovers_of,
)
from .json_files import read_as as read_as, read_json as read_json, why_invalid as why_invalid
from .locks import lock as lock, lock_file as lock_file
from .manifest import (
    MANIFEST as MANIFEST,
    Settings as Settings,
    amend as amend,
    claim as claim,
    recorded as recorded,
)
from .records import (
    Record as Record,
    append_records as append_records,
    read_records as read_records,
    read_scores as read_scores,
    write_records as write_records,
)
from .storage import (
    cache_folder as cache_folder,
    check_writable as check_writable,
    disk_full_error as disk_full_error,
)
