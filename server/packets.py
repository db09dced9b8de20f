"""What is signed where the keys are, and taken in where the server is: files that carry an order, a roster
or the server's certificate from one to the other.

Guarantee: a file is taken in only if the keys on the consortium's card signed what is in it; who carries it
can lose it, and change nothing. It holds no secret.
"""

from __future__ import annotations

import json
import secrets
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ..consortium import Request
from ..documents import Document
from ..durable import write_durably
from ..errors import ConsortiumError, JobError, PlanRefused
from ..handovers import MOST
from ..job import Job
from ..limits import keeps_to
from ..privacy.secagg.roster import SignedRoster, open_roster
from ..refusals import job_refusals, refused
from ..warrants import check_job_signature, delegate_of, order_seconds, sign_delegation, sign_job
from .consortium import Consortium
from .holdout import public_corpus
from .lasting import check_lasts
from .rotation import follow
from .run_folder import as_kept

Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$")]


class _Carried(Document):
    handovers: list[str] = Field(default_factory=list, max_length=MOST)
    """How the consortium's keys came to be those that signed this."""


class SignedJob(_Carried):
    """A job, the operator's order for one run of it, and what the server may do in this run."""

    _what: ClassVar[str] = "signed job"
    _largest: ClassVar[int] = 2**20

    format: Literal["umbel signed job 1"] = "umbel signed job 1"
    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
    job: dict[str, Any]
    order: Hex
    delegation: Hex = ""
    """Empty if the server holds the operator's key."""

    @property
    def built(self) -> Job:
        return Job.build(self.job, source=f"the job of run {self.run}")


class SignedMembers(_Carried):
    """A roster, and the requests of its members."""

    _what: ClassVar[str] = "signed roster"
    _largest: ClassVar[int] = 2**26

    format: Literal["umbel signed roster 1"] = "umbel signed roster 1"
    roster: Hex
    requests: list[Request]


class SignedCertificate(_Carried):
    """A certificate for the server's own key, by the consortium's authority."""

    _what: ClassVar[str] = "server certificate"

    format: Literal["umbel server certificate 1"] = "umbel server certificate 1"
    certificate: str


Packet = SignedJob | SignedMembers | SignedCertificate


def sign_order(consortium: Consortium, job: Job, run: str | None = None) -> SignedJob:
    """The operator's order for a run of a job; by default a new run.

    Raises for a job that no member would take part in, or that may outlast the roster.
    """
    _ = consortium.operator  # without it the rest would be in vain
    if job.task == "text-classification" and not job.data.labels:
        raise JobError(
            "data.labels is missing: between machines nobody sees all data, so the job has to name "
            'the classes, in order, such as data.labels = ["negative", "positive"]'
        )
    if job.encrypted and not keeps_to(job.encryption, consortium.limits):
        raise PlanRefused(
            "The job's [encryption] is not what this consortium's members insist on "
            f"({consortium.limits}). Change the job, or make a consortium with: umbel consortium "
            "create FOLDER --job JOB"
        )
    if reasons := job_refusals(job):
        raise refused(reasons)
    check_lasts(consortium, job)
    # Late: stopping a run needs no model.
    from ..learning.base import pinned
    from ..learning.probe import fitted

    # Owners are told which files they are, and compare that before they look into them.
    return signed_order(consortium, as_kept(fitted(pinned(job))), run or new_run(job))


def new_run(job: Job) -> str:
    """The id of a new run, which no other ever has: owners read in it what the operator calls the run."""
    return f"{job.name}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(8)}"


def signed_order(consortium: Consortium, job: Job, run: str) -> SignedJob:
    """An order for this very job as this very run, and a delegation if the server is apart."""
    text, id_ = job.to_json(), consortium.card.id
    counter, seconds = consortium.next_counter(), order_seconds(job)
    order = sign_job(consortium.operator, id_, run, text, counter=counter, seconds=seconds)
    delegation = ""
    if (delegate := consortium.delegate) is not None:
        now = int(time.time())
        delegation = sign_delegation(
            (consortium.operator, consortium.identity), id_, run, delegate,
            counter=counter, issued=now, expires=now + seconds,
        ).to_hex()  # fmt: skip
    handovers = consortium.card.handovers
    return SignedJob(
        run=run, job=json.loads(text), order=order, delegation=delegation, handovers=handovers
    )


def sign_members(consortium: Consortium, days: int | None = None) -> SignedMembers:
    """The newest roster, signed once more for so many days from now on."""
    consortium.prolong(days)
    roster = consortium.roster()
    assert roster is not None
    requests, handovers = consortium.members(), consortium.card.handovers
    return SignedMembers(roster=roster.hex(), requests=requests, handovers=handovers)


def sign_certificate(consortium: Consortium) -> SignedCertificate:
    """A new certificate for the server's key."""
    consortium.renew_certificate()
    pem, handovers = consortium.server_certificate.read_text(), consortium.card.handovers
    return SignedCertificate(certificate=pem, handovers=handovers)


def read_packet(path: Path) -> Packet:
    """A signed file of any kind; ``ConsortiumError`` for any other."""
    kinds: dict[str, type[Packet]] = {
        str(kind.model_fields["format"].default): kind
        for kind in (SignedJob, SignedMembers, SignedCertificate)
    }
    try:
        values = json.loads(path.read_bytes())
        kind = kinds[values["format"]]
    except OSError as error:
        raise ConsortiumError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError, KeyError, TypeError):
        raise ConsortiumError(f"{path} is nothing that umbel sign makes. Check the path.") from None
    return kind.read(path)


def check_order(consortium: Consortium, packet: SignedJob) -> None:
    """Refuse (``PlanRefused``) an order that this server cannot carry out."""
    card = consortium.card
    text = packet.built.to_json()
    said = check_job_signature(card.operator_key_bytes, card.id, packet.run, text, packet.order)
    if time.time() > said.expires:
        raise PlanRefused("This order has ended. Sign the job anew: umbel sign job")
    public_corpus(packet.built)
    if consortium.holds_keys:
        return
    own, when = consortium.delegate, time.time()
    try:
        given = delegate_of(packet.delegation, card.operator_key_bytes, card.id, packet.run, when)
    except PlanRefused as error:
        raise PlanRefused(f"This server could not finish the run: {error}.") from None
    if own is None or given != own.hex():
        raise PlanRefused(
            f"The delegation in it is for another server: sign the job where {consortium.path} was split"
        )


def take_members(consortium: Consortium, packet: SignedMembers) -> list[str]:
    """Go by a roster that was signed elsewhere; the names of members that came back by it.

    Raises ``ProtocolError`` for one that does not follow the roster here.
    """
    follow(consortium, packet.handovers)
    card, current = consortium.card, consortium.current_roster()
    data = bytes.fromhex(packet.roster)
    roster = open_roster(data, card.consortium_key_bytes, current)
    SignedRoster.from_bytes(data).check_time(time.time())
    requests = {request.name: request for request in packet.requests}
    for entry in roster.members:
        request = requests.get(entry.name)
        if request is None or request.entry != entry:
            raise ConsortiumError(f"The request of the member {entry.name!r} is not in this file.")
        request.check(card)
    before = set(current.by_name) if current else set()
    consortium.take_roster(roster.epoch, data, [requests[e.name] for e in roster.members])
    return sorted(set(roster.by_name) - before)


def take_certificate(consortium: Consortium, packet: SignedCertificate) -> None:
    """Use a certificate that was made elsewhere, if it fits authority and key of this folder."""
    from . import certificates

    follow(consortium, packet.handovers)
    authority, pem = certificates.read_certificate(consortium.ca_certificate), packet.certificate
    if not certificates.fits(pem.encode(), authority, certificates.read_key(consortium.server_key)):
        raise ConsortiumError(
            "This certificate is not by the consortium's authority, or for another key."
        )
    write_durably(consortium.server_certificate, packet.certificate.encode())
