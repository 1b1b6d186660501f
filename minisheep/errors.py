"""Every error that a user can act on, as one tree.

    MinisheepError                 one clear line, a way out, an exit code
    ├── UsageError            2    a setting, a name or a file given by the user is wrong
    │   ├── ConfigError            an unknown or contradicting setting
    │   ├── SeedFileError          a seed or prompt file that cannot be read
    │   ├── UnknownModelError      a model name that is not known
    │   └── RunMismatchError       the run folder was made with other settings
    ├── ModelFileError        1    a model file is missing, truncated, corrupt or of an unknown kind
    ├── UnsupportedModelError 1    an architecture or adapter that llama.cpp cannot load
    ├── DownloadError         1    a model is not cached and cannot be fetched
    ├── ExportError           1    an export differs from what was trained, or cannot be written to its place
    ├── StarvedError          3    a phase kept nothing: change a setting and continue the run
    ├── ExamError             3    no judge passed its exam: choose one, or force it, and continue the run
    ├── EndpointError         3    a judge's endpoint refused, failed or was unreadable; its verdicts are stored
    ├── TrainerFailedError    3    a trainer failed before its first step; another takes its place in a new process
    ├── WorkerError           3    the worker process died or failed; the run can be continued
    │   └── TimeUpError            it did not end in time
    ├── CorruptRunError       1    the run folder holds something that minisheep did not write
    ├── Stopped             130    the user asked to stop; everything finished is on disk
    ├── DiskError            74    the disk is full or refuses to write
    └── RunLockedError       75    another process holds the run folder

Any other exception is a fault of minisheep and keeps its traceback.
"""

from __future__ import annotations


class MinisheepError(Exception):
    """An error with a way out.

    ``message`` says what happened and what it means for the run; ``fix`` says what to type or change next.
    """

    exit_code = 1

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} {self.fix}".strip()


class UsageError(MinisheepError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class SeedFileError(UsageError):
    pass


class UnknownModelError(UsageError):
    pass


class RunMismatchError(UsageError):
    pass


class ModelFileError(MinisheepError):
    pass


class UnsupportedModelError(MinisheepError):
    pass


class DownloadError(MinisheepError):
    pass


class ExportError(MinisheepError):
    pass


class StarvedError(MinisheepError):
    exit_code = 3


class ExamError(MinisheepError):
    exit_code = 3


class EndpointError(MinisheepError):
    exit_code = 3


class TrainerFailedError(MinisheepError):
    exit_code = 3


class WorkerError(MinisheepError):
    exit_code = 3


class TimeUpError(WorkerError):
    pass


class CorruptRunError(MinisheepError):
    pass


class Stopped(MinisheepError):
    exit_code = 130


class DiskError(MinisheepError):
    exit_code = 74


class RunLockedError(MinisheepError):
    exit_code = 75


def by_name(kind: str) -> type[MinisheepError]:
    """The error class called `kind`, so that an error crosses from a worker to its parent as two strings."""
    classes = [MinisheepError]
    for parent in classes:
        classes += parent.__subclasses__()
    return next((found for found in classes if found.__name__ == kind), WorkerError)
