from . import choice as choice
from .base import (
    SPANS as SPANS,
    Engine as Engine,
    EngineRecord as EngineRecord,
    Generation as Generation,
    Request as Request,
    Sampling as Sampling,
    Watch as Watch,
    Written as Written,
)
from .forwards import try_forward as try_forward
from .hf import TransformersEngine as TransformersEngine
from .loop import (
    NOT_FINITE as NOT_FINITE,
    DecodeJob as DecodeJob,
    End as End,
    GuardVerdict as GuardVerdict,
    Loop as Loop,
    Update as Update,
)
from .row_cache import check_joinable as check_joinable
from .step_loop import StepLoop as StepLoop
from .vllm import VllmEngine as VllmEngine
from .vllm_loop import VllmLoop as VllmLoop
