from .report import STYLES as STYLES, verdict as verdict
