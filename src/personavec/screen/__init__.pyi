from .arrow_types import (
    Types as Types,
    column_types as column_types,
    united_types as united_types,
)
from .config import Cut as Cut, FlagRule as FlagRule, ScreenConfig as ScreenConfig
from .kept import Known as Known
from .outputs import (
    Added as Added,
    Files as Files,
    Unfit as Unfit,
    changed as changed,
    write_outputs as write_outputs,
)
from .pipeline import run as run
from .plots import paper_plots as paper_plots
from .results import ScreenResults as ScreenResults, summarised as summarised
from .score import (
    Columns as Columns,
    FloatColumns as FloatColumns,
    Plan as Plan,
    Prepared as Prepared,
    Probe as Probe,
    judge_rows as judge_rows,
    natural_projections as natural_projections,
    prepare as prepare,
    probe as probe,
    score_prepared as score_prepared,
    score_rows as score_rows,
)
from .table import part_table as part_table
