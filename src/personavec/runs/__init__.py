"""Files of runs that can be killed at any moment and resumed.

records      lines of JSON, appended and fsynced in groups
artifacts    whole files, written to a temporary name and renamed
manifest     the settings with which a folder was begun
locks        one process at a time
json_files   reading JSON files
storage      folders, and the system's errors as StorageError
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
