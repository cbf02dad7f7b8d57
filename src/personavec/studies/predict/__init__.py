"""Whether what is read from data before training tells what training does.

Run by `scripts/predict.py`.
"""
