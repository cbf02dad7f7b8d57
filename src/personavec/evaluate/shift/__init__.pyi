from .config import ShiftConfig as ShiftConfig
from .gate import units as units
from .measure import last_prompt_states as last_prompt_states
from .pipeline import run as run
from .results import (
    ShiftFigures as ShiftFigures,
    ShiftResults as ShiftResults,
    TraitShift as TraitShift,
)
