"""Read data files: a module for each format; `source` reads files, folders and datasets."""
