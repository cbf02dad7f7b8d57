from .config import ValidateScreenConfig as ValidateScreenConfig
from .pipeline import run as run
from .plots import paper_plots as paper_plots
from .results import ValidateScreenResults as ValidateScreenResults, summary as summary
