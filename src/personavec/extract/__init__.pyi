from .config import ExtractConfig as ExtractConfig, ImportConfig as ImportConfig
from .pipeline import questions_to_judge as questions_to_judge, run as run
from .plots import paper_plots as paper_plots
from .report import vector_report as vector_report
from .results import (
    ExtractResults as ExtractResults,
    ExtractSummary as ExtractSummary,
    summary as summary,
)
