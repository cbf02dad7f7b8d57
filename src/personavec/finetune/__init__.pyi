from .config import TrainingConfig as TrainingConfig
from .examples import (
    Example as Example,
    encode_rows as encode_rows,
    mean_losses as mean_losses,
    told_of as told_of,
)
from .hooks import TrainedPositions as TrainedPositions
from .mitigations import (
    WITH_COEFFICIENT as WITH_COEFFICIENT,
    WITH_STRENGTH as WITH_STRENGTH,
    WITH_VECTOR as WITH_VECTOR,
    Mitigation as Mitigation,
    MitigationName as MitigationName,
)
from .pipeline import FinetuneConfig as FinetuneConfig, run as run
from .preventative import PreventativeSteering as PreventativeSteering
from .probes import UNITS as UNITS
from .rows import TrainingRows as TrainingRows, read_training_rows as read_training_rows
from .schedule import Schedule as Schedule
