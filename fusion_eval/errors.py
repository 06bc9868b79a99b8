"""The errors a user can cause. Each message names the place, the bad value and what would be right."""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FusionEvalError",
    "MergeError",
    "TaskError",
]


class FusionEvalError(Exception):
    """Base of every error that is the input's fault, shown to the user as one message without a traceback."""


class ConfigError(FusionEvalError):
    """A YAML file, an override or an argument is wrong."""


class DataError(FusionEvalError):
    """A data source cannot be read, or does not hold what it should."""


class CheckpointError(FusionEvalError):
    """A checkpoint cannot be read, or does not fit the architecture."""


class MergeError(FusionEvalError):
    """State dicts cannot be merged, or the result is not finite."""


class TaskError(FusionEvalError):
    """A task cannot be evaluated with the model under test."""
