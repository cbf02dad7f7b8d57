"""What commands check of their output, before any work."""

from personavec.runs import check_writable as check_writable
