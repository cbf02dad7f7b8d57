from .config import ShiftConfig as ShiftConfig
from .gate import parse_conditions as parse_conditions
from .measure import last_prompt_states as last_prompt_states
from .pipeline import run as run
from .plots import paper_plots as paper_plots
from .results import (
    ShiftFigures as ShiftFigures,
    ShiftResults as ShiftResults,
    TraitShift as TraitShift,
)
