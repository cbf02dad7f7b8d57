"""Judges: how strongly a response shows a trait, and whether it is coherent."""
