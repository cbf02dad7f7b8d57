from .blocks import (
    Answer as Answer,
    Look as Look,
    Pair as Pair,
    Side as Side,
    answers as answers,
    clipped as clipped,
    opening as opening,
    pictured_above as pictured_above,
    use_it as use_it,
)
from .charts import number as number, signed as signed
from .page import (
    Content as Content,
    chart as chart,
    code as code,
    element as element,
    estimate as estimate,
    figure as figure,
    folded as folded,
    not_measured as not_measured,
    plain as plain,
    section as section,
    table as table,
)
from .reading import reading_section as reading_section
