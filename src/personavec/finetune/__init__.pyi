from .config import (
    WITH_VECTOR as WITH_VECTOR,
    FinetuneConfig as FinetuneConfig,
    Mitigation as Mitigation,
    TrainingConfig as TrainingConfig,
)
from .job import check_inputs as check_inputs
from .pipeline import is_main_process as is_main_process, run as run
from .preventative import PreventativeSteering as PreventativeSteering
from .results import (
    FinetuneResults as FinetuneResults,
    PreventativeDose as PreventativeDose,
)
from .rows import TrainingRows as TrainingRows, read_training_rows as read_training_rows
from .schedule import Schedule as Schedule
from .texts import (
    TrainingText as TrainingText,
    encode_rows as encode_rows,
    mean_losses as mean_losses,
    reading_of as reading_of,
)
