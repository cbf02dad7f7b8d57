from .config import ValidateScreenConfig as ValidateScreenConfig
from .pipeline import run as run
from .report import STYLES as STYLES, verdict as verdict
from .results import ValidateScreenResults as ValidateScreenResults, summary as summary
