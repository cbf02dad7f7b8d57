from .agreement import compare_file as compare_file
from .api_rubric import (
    ApiRubricJudge as ApiRubricJudge,
    judge_notes as judge_notes,
    responses_to_come as responses_to_come,
)
from .base import (
    Answer as Answer,
    Identity as Identity,
    Judge as Judge,
    Score as Score,
    last_answer as last_answer,
)
from .coherence import COHERENCE_FLOOR as COHERENCE_FLOOR
from .contrast import ContrastJudge as ContrastJudge
from .control_notes import (
    chat_formats as chat_formats,
    count_control as count_control,
    spec_notes as spec_notes,
)
from .endpoint import (
    CostEstimate as CostEstimate,
    Endpoint as Endpoint,
    Reply as Reply,
    ask as ask,
    ask_json as ask_json,
    estimate as estimate,
    total as total,
    unwritten as unwritten,
)
from .files import file_answers as file_answers, score_file as score_file
from .local_rubric import LocalRubricJudge as LocalRubricJudge
from .results import (
    Agreement as Agreement,
    CheckResults as CheckResults,
    CompareResults as CompareResults,
    PairAgreement as PairAgreement,
    ScoreResults as ScoreResults,
)
from .rubric import trait_rubric as trait_rubric
