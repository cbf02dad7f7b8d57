"""Figures of a dataset, to predict from."""

from personavec.studies.predict import PredictionRecord


def record(
    dataset: str, shift: float, expression: float, trait: str = "testing", own: bool = True
) -> PredictionRecord:
    """Of rows that are all alike."""
    return PredictionRecord(
        dataset=dataset,
        trait=trait,
        own=own,
        projection_difference=1.0,
        projection=1.0,
        judge=1.0,
        length=1.0,
        rows=1,
        shift=shift,
        shift_low=shift,
        shift_high=shift,
        expression=expression,
        expression_low=expression,
        expression_high=expression,
    )
