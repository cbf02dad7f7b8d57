from . import (
    author as author,
    evaluate as evaluate,
    extract as extract,
    finetune as finetune,
    monitor as monitor,
    screen as screen,
)
from .author import AuthorConfig as AuthorConfig
from .errors import PersonavecError as PersonavecError
from .evaluate import shift as shift
from .extract import ExtractConfig as ExtractConfig
from .finetune import (
    FinetuneConfig as FinetuneConfig,
    Mitigation as Mitigation,
    PreventativeSteering as PreventativeSteering,
    TrainingConfig as TrainingConfig,
)
from .finetune.sets import elicit as elicit
from .model import (
    LoadedModel as LoadedModel,
    load_model as load_model,
    respond as respond,
    steer as steer,
    wrap_model as wrap_model,
)
from .monitor import (
    calibrate as calibrate,
    project_conversation as project_conversation,
    read_conversation as read_conversation,
)
from .traits import TraitSpec as TraitSpec, load_trait as load_trait
from .vectors import PersonaVector as PersonaVector, cosine as cosine, load_vector as load_vector

__version__: str
