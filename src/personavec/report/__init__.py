"""Charts and pages drawn from saved results; nothing here loads a model."""
