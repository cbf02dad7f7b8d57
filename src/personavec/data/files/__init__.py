"""One module for each kind of file; `source` reads a file, a folder or a dataset with them."""
