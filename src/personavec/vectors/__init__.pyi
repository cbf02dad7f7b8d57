from .calibration import (
    COVERAGE as COVERAGE,
    FILE as FILE,
    PERCENTILES as PERCENTILES,
    Calibration as Calibration,
)
from .chosen import specs_of as specs_of
from .estimators import (
    ESTIMATORS as ESTIMATORS,
    Estimator as Estimator,
    estimate as estimate,
    mean_difference as mean_difference,
)
from .folder import (
    bundled_vectors as bundled_vectors,
    load_vector as load_vector,
    vector_folder as vector_folder,
)
from .formats import (
    LAST_ROW_NOTE as LAST_ROW_NOTE,
    Exported as Exported,
    export as export,
    read_reference as read_reference,
)
from .geometry import (
    agreement as agreement,
    largest_coordinate as largest_coordinate,
    mean_and_spread as mean_and_spread,
    projections as projections,
    question_differences as question_differences,
    random_directions as random_directions,
    split_half_cosine as split_half_cosine,
)
from .limits import READING as READING, Alarm as Alarm, Chart as Chart, Ordinary as Ordinary
from .vector import (
    DRIFT_FILE as DRIFT_FILE,
    PersonaVector as PersonaVector,
    check_layer as check_layer,
    cosine as cosine,
    other_model_notes as other_model_notes,
)
from .verdict import (
    STABLE as STABLE,
    TELLS_APART as TELLS_APART,
    ReliabilityCheck as ReliabilityCheck,
    StoredVerdict as StoredVerdict,
    Verdict as Verdict,
    bundled_verdicts as bundled_verdicts,
    said_check as said_check,
    verdict_of as verdict_of,
)
