"""The coherence from which a steered configuration is accepted."""

#: A steered configuration with a lower mean coherence is not accepted.
COHERENCE_FLOOR = 75.0
