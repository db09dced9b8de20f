"""Every error that a user of Umbel can meet, in one tree.

UmbelError                  a person can act on it; the command line prints it and exits with 2
├── JobError                the job file: unknown key, wrong type, impossible value
├── DataError               the data: missing file or column, bad encoding, labels, empty client
├── ModelError              the base model or an adapter: not found, no weights, wrong shape
├── PlanRefused             the job is well formed, but what it asks for cannot be right
│   └── WeightsRefused      an owner takes no private step from the weights that came
├── BudgetExceeded          an owner's privacy ledger refuses to spend more
├── LedgerError             an owner's privacy ledger is damaged, edited or of another version
├── RoundFailed             too few clients answered, also after the retries
│   ├── CannotGoOn          no repetition can help: too few are left, or take part
│   └── OutOfRange          too few owners train a model any further: its weights are too large
├── StrategyError           a strategy cannot be found, configured or used
├── RunFolderError          a run folder exists already, is missing, or cannot be written
├── FileError               a file or folder cannot be written, or is not fit for secrets
├── ConsortiumError         a consortium's card, request or folder: missing, damaged, not acceptable
├── CertificateError         a run's certificate is missing, was changed, or is about something else
├── CheckpointError         no usable checkpoint to resume from
├── MessageError            a message from the other side does not have the agreed form
├── ProtocolError           a message of secure aggregation breaks a rule (names rule and peer)
│   └── TooFewMembers       a slot of secure aggregation is given up: too few are left
├── DeploymentError         a process of a deployment cannot be started or reached
└── Interrupted             the user stopped the run; it can be resumed (exit status 130)

A message says what is wrong, where, and what to do. It is one paragraph, without a traceback.
"""

import errno
import os
import re


class UmbelError(Exception):
    """Base of all errors that Umbel raises on purpose."""

    exit_code = 2


class JobError(UmbelError):
    """The job file, or a value given on the command line, is not valid."""


class DataError(UmbelError):
    """The data cannot be used as the job describes it."""


class ModelError(UmbelError):
    """A base model or adapter cannot be loaded or does not fit."""


class PlanRefused(UmbelError):
    """The plan refuses a combination that cannot be right."""


class WeightsRefused(PlanRefused):
    """With the weights that came, rounding would let one record move what others add."""


class BudgetExceeded(UmbelError):
    """The owner's limit on epsilon would be passed."""


class LedgerError(UmbelError):
    """A privacy ledger cannot be trusted or read."""


class RoundFailed(UmbelError):
    """Too few clients answered in a round, also after its retries."""

    def __init__(self, why: str, advice: str = "") -> None:
        super().__init__(f"{why} {advice}".strip())
        self.why = why


class CannotGoOn(RoundFailed):
    """The same, and asking again would not help: too few clients are left, or take part."""


class OutOfRange(RoundFailed):
    """Owners refuse the weights that a round would begin with: the run ends with them."""


class StrategyError(UmbelError):
    """A strategy cannot be found, configured or used."""


class RunFolderError(UmbelError):
    """A run folder cannot be created, read or written."""


class FileError(UmbelError):
    """A file or folder cannot be written whole, or is not safe for secrets. Nothing was changed."""


class ConsortiumError(UmbelError):
    """A consortium's card, a request, or a folder of keys cannot be used or changed as asked."""


class CertificateError(UmbelError):
    """A certificate is missing, was changed, or is not about these files or this signer."""


class CheckpointError(UmbelError):
    """There is no usable checkpoint."""


class MessageError(UmbelError):
    """A message does not have the form that both sides agreed on."""


class Interrupted(UmbelError):
    """The user stopped the run. What was finished is on disk."""

    exit_code = 130


class ProtocolError(UmbelError):
    """A message of secure aggregation breaks a rule. Nothing was changed, nothing was released."""

    def __init__(self, rule: str, peer: str, text: str) -> None:
        super().__init__(f"secure aggregation, rule {rule}: {peer}: {text}")
        self.rule, self.peer = rule, peer


class TooFewMembers(ProtocolError):
    """A slot of secure aggregation has to be given up: nothing of it can be opened."""


class DeploymentError(UmbelError):
    """A process of a deployment cannot be started or reached."""


_PLACE = {
    errno.ENOSPC: "Free some space, then do it again",
    errno.EDQUOT: "Free some space, then do it again",
    errno.EACCES: "Give this user access to it, or name another place",
    errno.EPERM: "Give this user access to it, or name another place",
    errno.EROFS: "It is on a read-only file system: name another place",
}
_FOREIGN = re.compile(r"\(os error (\d+)\)")


def of_the_machine(error: BaseException) -> str | None:
    """What a person can do about a disk or right that is lacking, in a sentence; None for all else.

    Libraries written in Rust raise bare exceptions, which name the system's error in their text.
    """
    if isinstance(error, OSError):
        number, where = error.errno, error.filename
    else:
        found = _FOREIGN.search(str(error))
        number, where = (int(found[1]), None) if found else (None, None)
    if number not in _PLACE:
        return None
    at = f"{where}: " if where else ""
    return f"{at}{os.strerror(number)}. {_PLACE[number]}; resume a run with --resume."
