from .collecting import (
    Polarity as Polarity,
    Rollout as Rollout,
    Task as Task,
    collect as collect,
    collect_from_endpoint as collect_from_endpoint,
    elicitation_tasks as elicitation_tasks,
    eliciting_tasks as eliciting_tasks,
    from_record as from_record,
    judged as judged,
    keep as keep,
    load_activations as load_activations,
    neutral_tasks as neutral_tasks,
    prompt_ids as prompt_ids,
    write_rollouts as write_rollouts,
)
from .expression import bounds as bounds, paired as paired, summarise as summarise
from .natural import Naturals as Naturals, prompt_key as prompt_key
from .neutral import neutral_means as neutral_means
