from .config import (
    SMALL as SMALL,
    Arm as Arm,
    CompareConfig as CompareConfig,
    parse_arms as parse_arms,
)
from .pipeline import run as run, summary as summary
from .plots import paper_plots as paper_plots
from .results import ArmResults as ArmResults, CompareResults as CompareResults
