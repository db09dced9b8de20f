"""Signing orders, rosters and the server's certificate where the keys are, and taking them in elsewhere."""

from __future__ import annotations

import json
import secrets
import time
from datetime import datetime

from ..consortium.authority import Consortium
from ..consortium.lasting import check_lasts
from ..consortium.packets import SignedCertificate, SignedJob, SignedMembers
from ..consortium.rotation import follow
from ..consortium.warrants import (
    check_job_signature,
    delegate_of,
    order_seconds,
    sign_delegation,
    sign_job,
)
from ..errors import ConsortiumError, JobError, PlanRefused
from ..job import Job
from ..planning.limits import keeps_to
from ..planning.refusals import job_refusals, refused
from ..privacy.secagg.roster import SignedRoster, approvals_needed, open_roster
from ..run.run_folder import as_kept
from ..storage.files import write_durably
from .holdout import public_corpus


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
    from ..learning.base_model import pinned
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
    """The newest roster, signed once more for so many days from now on; or the one that is pending."""
    pending = consortium.pending
    if pending is None:
        consortium.prolong(days)
    roster = pending.to_bytes() if pending else consortium.roster_of(consortium.epoch)
    requests = [consortium.request_of(e) for e in SignedRoster.from_bytes(roster).whole.members]
    handovers = consortium.card.handovers
    return SignedMembers(roster=roster.hex(), requests=requests, handovers=handovers)


def sign_certificate(consortium: Consortium) -> SignedCertificate:
    """A new certificate for the server's key."""
    consortium.renew_certificate()
    pem, handovers = consortium.server_certificate.read_text(), consortium.card.handovers
    return SignedCertificate(certificate=pem, handovers=handovers)


def check_order(consortium: Consortium, packet: SignedJob) -> None:
    """Refuse (``PlanRefused``) an order that this server cannot carry out."""
    card = consortium.card
    text = packet.built.to_json()
    said = check_job_signature(card.operator_key_bytes, card.id, packet.run, text, packet.order)
    if time.time() > said.expires:
        raise PlanRefused("This order has ended. Sign the job anew: umbel sign job")
    if packet.built.encrypted and not consortium.roster_is_by_todays_key:
        raise PlanRefused(
            "The roster here is signed by a key that was replaced, and owners take no such one. Sign it "
            "where the keys are, and take it in first: umbel sign roster, umbel take"
        )
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
    if consortium.pending is not None:
        data = _merged(consortium, data).to_bytes()
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


def approvals_awaited(consortium: Consortium, packet: SignedMembers) -> str:
    """Keep what came of approvals, and say whose are awaited; nothing if there are enough, or none needed."""
    current = consortium.current_roster()
    needed = approvals_needed(current)
    if consortium.pending is None or current is None:
        return ""
    given = _merged(consortium, bytes.fromhex(packet.roster)).approvers(current)
    if len(given) >= needed:
        return ""
    more = needed - len(given)
    are = "is" if more == 1 else "are"
    return f"Approved by {', '.join(given) or 'nobody'}: {more} more {are} needed."


def _merged(consortium: Consortium, data: bytes) -> SignedRoster:
    """The roster with all approvals that ever came for it."""
    given = SignedRoster.from_bytes(data)
    return consortium.approve(given) or given


def take_certificate(consortium: Consortium, packet: SignedCertificate) -> None:
    """Use a certificate that was made elsewhere, if it fits authority and key of this folder."""
    from ..consortium import tls

    follow(consortium, packet.handovers)
    authority, pem = tls.read_certificate(consortium.ca_certificate), packet.certificate
    if not tls.fits(pem.encode(), authority, tls.read_key(consortium.server_key)):
        raise ConsortiumError(
            "This certificate is not by the consortium's authority, or for another key."
        )
    write_durably(consortium.server_certificate, packet.certificate.encode())
