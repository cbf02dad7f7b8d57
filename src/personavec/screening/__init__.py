"""Screening: from rows of data to projections, natural sides, verdicts, summaries and files."""
