from .config import PredictionConfig as PredictionConfig, PredictionDataset as PredictionDataset
from .parts import run_parts as run_parts
from .pipeline import run as run
from .results import (
    Correlation as Correlation,
    PartsResults as PartsResults,
    PredictionRecord as PredictionRecord,
    PredictionResults as PredictionResults,
)
