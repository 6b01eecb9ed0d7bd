"""What training refuses."""

from regvpr_core.errors import RegvprError


class TrainingError(RegvprError):
    """Data, a run's folder or a loss that training cannot go on with."""
