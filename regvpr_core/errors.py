"""Errors of the package. Each message says what is wrong, the value, and what to do."""


class RegvprError(Exception):
    """Any refusal of input by this package."""


class ConfigError(RegvprError):
    """A setting has an unknown name or a value out of range."""


class ImageError(RegvprError):
    """An image cannot be decoded or has a size or type that cannot be used."""


class MapError(RegvprError):
    """A place map is missing, damaged, of another version or of another model."""


class BagError(RegvprError):
    """A bag, a trajectory or a topic in them cannot be used."""


class CheckpointError(RegvprError):
    """A weights file is missing, damaged or fits another architecture."""


class MissingWeightsError(CheckpointError):
    """No file with the weights of a backbone is on this machine."""


class UnknownModelError(CheckpointError):
    """No model has this name."""


class OnnxFileError(CheckpointError):
    """A file cannot be opened as an ONNX model."""


class ExportError(RegvprError):
    """An exported model does not reproduce the model that it was made from."""


class EvaluationError(RegvprError):
    """A data set is incomplete or has another layout, or a model gives no usable descriptors."""


class TrainingError(RegvprError):
    """Data, a run folder or a loss with which training cannot continue."""
