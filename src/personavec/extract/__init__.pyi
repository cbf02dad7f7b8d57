from .config import ExtractConfig as ExtractConfig
from .pipeline import questions_to_judge as questions_to_judge, run as run, summary as summary
from .report import vector_report as vector_report
