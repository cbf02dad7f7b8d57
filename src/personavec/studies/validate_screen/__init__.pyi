from .config import ValidateScreenConfig as ValidateScreenConfig
from .pipeline import run as run
from .results import ValidateScreenResults as ValidateScreenResults, summary as summary
