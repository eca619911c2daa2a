"""What can go wrong for a user, as a tree.

    SurgError               the user can do something about it: printed without a traceback, exit status 2
    ├── ConfigError         a setting: unknown key, wrong type, impossible combination
    ├── DataError           a video, a manifest, a data set's layout
    ├── CheckpointError     weights that do not fit, are damaged, or are not weights
    ├── ExportError         a model that cannot be exported, or whose export does not equal it
    ├── ServerError         a server that is absent, refuses, or speaks another contract
    ├── RunError            a run folder: exists already, cannot be written, cannot be resumed
    └── CheckFailed         a check or gate did its work and said no: exit status 1

Every message says what happened, what was found, what was expected and what to do next.
Anything else that is raised is a bug of ours and keeps its traceback.
"""


class SurgError(Exception):
    """Something the user can put right. The message is all that they will see."""

    exit_code = 2


class ConfigError(SurgError):
    """A setting is unknown, of the wrong type, or contradicts another."""


class DataError(SurgError):
    """A video, manifest, label file or data set cannot be used as it is."""


class CheckpointError(SurgError):
    """Weights are missing, damaged, or do not fit the model."""


class ExportError(SurgError):
    """A model cannot be exported, or its export does not equal it."""


class ServerError(SurgError):
    """A server is absent, refuses a request, or speaks another contract."""


class RunError(SurgError):
    """A run folder exists already, cannot be written, or cannot be resumed."""


class CheckFailed(SurgError):
    """A check or a gate ran and its answer is no."""

    exit_code = 1
