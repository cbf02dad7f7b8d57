from .config import ValidateScreenConfig as ValidateScreenConfig
from .pipeline import run as run, summary as summary
from .report import STYLES as STYLES, verdict as verdict
