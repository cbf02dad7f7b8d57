from .collecting import (
    collect as collect,
    collect_from_endpoint as collect_from_endpoint,
    prompt_ids as prompt_ids,
)
from .estimate import say_estimate as say_estimate
from .expression import (
    Expression as Expression,
    ExpressionDifference as ExpressionDifference,
    Measure as Measure,
    paired as paired,
    summarise as summarise,
)
from .judging import judged as judged, keep as keep
from .natural import Naturals as Naturals, prompt_key as prompt_key
from .neutral import neutral_means as neutral_means
from .rollout import (
    Rollout as Rollout,
    Task as Task,
    from_record as from_record,
    iter_rollouts as iter_rollouts,
    load_activations as load_activations,
    write_rollouts as write_rollouts,
)
from .tasks import (
    elicitation_tasks as elicitation_tasks,
    eliciting_tasks as eliciting_tasks,
    neutral_tasks as neutral_tasks,
)
