"""What evaluation refuses."""

from regvpr_core.errors import RegvprError


class EvaluationError(RegvprError):
    """A data set is incomplete or has another layout, or a model gives no usable descriptors."""
