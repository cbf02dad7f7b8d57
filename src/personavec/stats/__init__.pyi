from .bootstrap import (
    auc as auc,
    auc_interval as auc_interval,
    clustered_bootstrap as clustered_bootstrap,
    correlation_interval as correlation_interval,
    mean as mean,
    resampled as resampled,
)
from .interval import (
    CONFIDENCE as CONFIDENCE,
    Interval as Interval,
    monotone_within_intervals as monotone_within_intervals,
)
from .reliability import times_as_many as times_as_many
from .robust import (
    cluster_mean as cluster_mean,
    clustered_share as clustered_share,
    mean_difference_interval as mean_difference_interval,
    quantile_interval as quantile_interval,
    rank_correlation_interval as rank_correlation_interval,
    share_interval as share_interval,
)
