from .cells import (
    Bench as Bench,
    Measured as Measured,
    answer_tasks as answer_tasks,
    is_measured as is_measured,
    judge_cells as judge_cells,
    measure as measure,
    pooled_surprise as pooled_surprise,
    split_rows as split_rows,
)
