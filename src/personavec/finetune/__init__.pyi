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
from .schedule import Schedule as Schedule
from .training import (
    Example as Example,
    TrainingConfig as TrainingConfig,
    TrainingRows as TrainingRows,
    encode_rows as encode_rows,
    mean_losses as mean_losses,
    read_training_rows as read_training_rows,
    told_of as told_of,
)
