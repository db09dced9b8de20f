"""What a request says, and what may leave as its answer when something goes wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import (
    BudgetExceeded,
    ConsortiumError,
    DataError,
    FileError,
    LedgerError,
    MessageError,
    ModelError,
    PlanRefused,
    ProtocolError,
    UmbelError,
    WeightsRefused,
)
from ..job import Job
from ..wire.requests import ASSIGNMENT, FAILED, OUT_OF_RANGE, REFUSED, WAITING, Assignment
from .budget import RunSpent
from .gate import check_leaves
from .policy import NotYet, Policy

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict


def answered(
    name: str,
    message: Message,
    policy: Policy,
    act: Callable[[Assignment, Message], RecordDict],
) -> Message:
    """The reply with what `act` makes of a request, or with why there is none.

    Nothing leaves that is not declared in ``gate``, and agreed on by job and policy. What goes wrong
    with an owner's data, ledger or journal goes into its own log, and the server hears only that
    something did.
    """
    from flwr.app import Message

    from ..flower import refuse

    try:
        assignment = _assignment(name, message)
        content = act(assignment, message)
        check_leaves(content, message.metadata.message_type, job_of(assignment), policy)
        return Message(content, reply_to=message)
    except NotYet as error:
        return refuse(message, WAITING, str(error))
    except WeightsRefused as error:
        return refuse(message, OUT_OF_RANGE, str(error))
    except (RunSpent, PlanRefused) as error:
        return refuse(message, REFUSED, str(error))
    except BudgetExceeded as error:
        # It says what other jobs have spent.
        log_error(name, error)
        text = (
            f"{name}'s data has too little privacy budget left for this: ask for fewer rounds or a "
            "smaller privacy.epsilon. Its owner can see what is left: umbel ledger show"
        )
        return refuse(message, REFUSED, text)
    except (LedgerError, FileError, ConsortiumError) as error:
        # It may name a file of this machine.
        log_error(name, error)
        return refuse(message, FAILED, f"{name} could not answer; its own log says why")
    except ProtocolError as error:
        log_error(name, error)
        own = error.peer == "this client"
        text = "it could not take part in the sum; the client's own log says why"
        return refuse(message, FAILED, text if own else str(error))
    except (DataError, ModelError) as error:
        # It may quote a record, or say what lies on this machine.
        log_error(name, error)
        what = "data do" if isinstance(error, DataError) else "base model does"
        text = f"{name}'s {what} not fit the job; the client's own log says why"
        return refuse(message, REFUSED, text)
    except UmbelError as error:
        return refuse(message, FAILED, str(error))
    except Exception:
        logging.getLogger(__name__).exception("%s failed", name)
        text = "internal error at the client; its own log says why"
        return refuse(message, FAILED, text)


def log_error(name: str, error: UmbelError) -> None:
    """For the owner's eyes only."""
    logging.getLogger(__name__).error("%s: %s", name, error)


def _assignment(name: str, message: Message) -> Assignment:
    record = message.content.config_records.get(ASSIGNMENT)
    if record is None:
        raise MessageError("A request does not name a job")
    version = str(record.get("version"))
    if version != __version__:
        raise PlanRefused(
            f"{name} runs Umbel {__version__}, the server {version}: "
            "install the same version on both sides"
        )
    return Assignment.from_record(record)


def job_of(assignment: Assignment) -> Job:
    """The job that a request belongs to."""
    return _parse_job(assignment.job)


@lru_cache(maxsize=4)
def _parse_job(text: str) -> Job:
    return Job.build(json.loads(text), source="the server's job")
