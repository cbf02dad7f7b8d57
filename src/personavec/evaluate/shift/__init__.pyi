from .config import ShiftConfig as ShiftConfig
from .gate import parse_conditions as parse_conditions
from .measure import last_prompt_states as last_prompt_states
from .pipeline import run as run
from .results import (
    ShiftFigures as ShiftFigures,
    ShiftResults as ShiftResults,
    TraitShift as TraitShift,
)
