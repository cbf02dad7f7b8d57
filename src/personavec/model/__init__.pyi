from .adapters import take_off as take_off
from .beginnings import (
    MIN_TOKENS as MIN_TOKENS,
    Beginning as Beginning,
    Beginnings as Beginnings,
    can_share as can_share,
    encode_beginning as encode_beginning,
    shared_beginnings as shared_beginnings,
)
from .blocks import (
    Blocks as Blocks,
    block_output as block_output,
    find_blocks as find_blocks,
    with_block_output as with_block_output,
)
from .capture import (
    SpanSums as SpanSums,
    batches_under_budget as batches_under_budget,
    capture_means as capture_means,
    check_finite as check_finite,
    padded as padded,
    recording as recording,
    run_to_deepest_layer as run_to_deepest_layer,
)
from .chat_format import (
    CONTROL_IN_TEXT as CONTROL_IN_TEXT,
    ChatFormat as ChatFormat,
    EarlierTurns as EarlierTurns,
    Message as Message,
    chat as chat,
    control_notes as control_notes,
)
from .embedded import EMBEDDED as EMBEDDED, embedded_gguf as embedded_gguf
from .encoding import (
    Encoded as Encoded,
    Text as Text,
    Turn as Turn,
    encode as encode,
    with_thoughts as with_thoughts,
)
from .loaded import (
    LoadedModel as LoadedModel,
    ModelIdentity as ModelIdentity,
    wrap_model as wrap_model,
)
from .loading import load_model as load_model, weights_of as weights_of
from .projecting import (
    Directions as Directions,
    TokenIds as TokenIds,
    TokenProjections as TokenProjections,
    project_tokens as project_tokens,
)
from .responding import respond as respond
from .scoring import ScoringJob as ScoringJob, token_logprobs as token_logprobs
from .sequences import sequence_logprobs as sequence_logprobs
from .steering import (
    Action as Action,
    Cap as Cap,
    Layers as Layers,
    Steering as Steering,
    SteeringBatch as SteeringBatch,
    steer as steer,
    steering_forwards as steering_forwards,
    steering_rows as steering_rows,
    vector_cap as vector_cap,
    vector_steering as vector_steering,
)
from .thinking import Thought as Thought, split as split
from .tuned import check_tuned as check_tuned, tuned_model as tuned_model
from .weights import hash_of_files as hash_of_files
