"""Monitoring: from the readings of a log to charts, limits, summaries and files."""
