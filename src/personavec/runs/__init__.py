"""Files of a run that can be killed at any byte and continued.

    records      lines of JSON, appended and fsynced in groups
    artifacts    whole files, written aside and renamed
    manifest     the settings that a folder was begun with
    locks        one process at a time
    json_files   reading JSON back
    storage      the system's errors in one line

None of them knows what the records mean.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
