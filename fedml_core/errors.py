"""Every error a user can cause, each with its cause and its remedy.

    FedMLError                 exit code 1
    ├── ConfigError            exit code 2   all problems of a configuration at once
    ├── DataError              exit code 2   a data set is absent or malformed
    ├── RunError               exit code 2   a run folder cannot be used
    │   └── CheckpointError                  a checkpoint is damaged
    ├── TrainerError                         a ModelTrainer broke its contract
    ├── CommunicationError                   a message cannot be sent, or what arrived is not a message
    │   ├── RoundFailed                          too few clients replied in time
    │   └── Unsendable                           a payload is no tree, or larger than the limits allow
    └── DivergedError                        training produced NaN or infinity

Code raises these only for what the user can mend; a bug stays a plain Python exception with its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FedMLError(Exception):
    """Base of all errors that are the user's to mend; `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(FedMLError):
    """A configuration cannot work. `problems` holds every fault found, one line each."""

    exit_code = 2

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DataError(FedMLError):
    """A data set is not on disk, or a file is not in the format it claims."""

    exit_code = 2


class RunError(FedMLError):
    """A run folder is missing, taken, or does not match what is asked of it."""

    exit_code = 2


class CheckpointError(RunError):
    """A checkpoint is truncated or altered: its checksum does not match its content."""


class TrainerError(FedMLError):
    """A ModelTrainer returned something other than its contract says."""


class CommunicationError(FedMLError):
    """A message cannot be sent, or what arrived is not a message."""


class Refused(CommunicationError):
    """The other side does not want this one, whenever it asks: its reason says what to do."""


class RoundFailed(CommunicationError):
    """Too few clients replied in time; the round can be tried again with whoever is there then."""


class Unsendable(CommunicationError):
    """A payload is no tree, or larger than the limits allow: no matter to whom it is sent."""


class DivergedError(FedMLError):
    """Training produced a loss that is not a number."""


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """One line for a name nobody knows: the name, the nearest known one, and all that is allowed.

    >>> unknown("model", "cnm", ["cnn", "lr"])
    "unknown model 'cnm': did you mean 'cnn'? Allowed: cnn, lr"
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"unknown {what} '{name}': {hint}Allowed: {', '.join(names) or 'none'}"
