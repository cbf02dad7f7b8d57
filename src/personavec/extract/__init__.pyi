from .pipeline import (
    ExtractConfig as ExtractConfig,
    questions_to_judge as questions_to_judge,
    run as run,
    summary as summary,
)
from .report import vector_report as vector_report
