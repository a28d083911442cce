"""Every error a user can cause, in one tree.

::

    TrivetError                 what happened, where, the rule, the next step
    ├── ConfigError             a YAML file, a key, an option
    ├── DataError               a data set, a row, a field
    ├── ModelError              weights, tokenizer, chat template, an unknown model name
    ├── EngineError             running a model
    │   ├── UnsupportedError    an engine is asked for what it cannot do faithfully
    │   ├── ContextLengthError  a prompt is longer than the model's context
    │   ├── QueueFullError      the admission queue is full: back-pressure, try again later
    │   └── EndpointError       a remote endpoint does not answer or answers wrongly
    ├── JudgeError              a judge cannot be built or fitted
    ├── MergeError              a merge recipe and its models do not fit together
    ├── TrainingError           a training run cannot go on: a loss that is not finite, another run's folder
    ├── StoreError              the store is locked, damaged or out of space
    └── StudyError              a study cannot be planned or run

The command line prints ``str(error)`` and exits with code 2; no traceback is shown for these.
"""


class TrivetError(Exception):
    """An error with a message for the user.

    Args:
        message: what happened and the rule that was broken, in one sentence.
        where: file, key, row or address at fault.
        hint: the next step that mends it.
    """

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.message = message
        self.where = where
        self.hint = hint
        super().__init__(message)

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  → {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments are lost by the default pickling of exceptions, and errors cross processes.
        return _rebuild, (type(self), self.message, self.where, self.hint)


def _rebuild(kind: type[TrivetError], message: str, where: str | None, hint: str | None) -> TrivetError:
    return kind(message, where=where, hint=hint)


class ConfigError(TrivetError):
    """A configuration file, key or option is wrong."""


class DataError(TrivetError):
    """A data set, row or field is wrong."""


class ModelError(TrivetError):
    """Weights, a tokenizer, a chat template or a model name is wrong."""


class EngineError(TrivetError):
    """A model could not be run."""


class UnsupportedError(EngineError):
    """The engine cannot do this faithfully, and an approximation is never substituted."""


class ContextLengthError(EngineError):
    """The prompt does not fit the model's context."""


class QueueFullError(EngineError):
    """The admission queue is full."""


class EndpointError(EngineError):
    """A remote endpoint is unreachable or answers wrongly."""


class JudgeError(TrivetError):
    """A judge cannot be built, fitted or calibrated."""


class MergeError(TrivetError):
    """A merge recipe and its models do not fit together."""


class TrainingError(TrivetError):
    """A training run cannot start or go on."""


class StoreError(TrivetError):
    """The store is locked, damaged or out of space."""


class StudyError(TrivetError):
    """A study cannot be planned or run."""
