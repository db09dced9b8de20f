"""Signing orders, rosters and the server's certificate where the keys are, and taking them in elsewhere."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from ..consortium.authority import Consortium
from ..consortium.card import Card, Request
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
from ..planning.refusals import deployment_refusals, job_refusals, refused
from ..privacy.secagg.roster import Roster, SignedRoster, approvals_needed, open_roster
from ..privacy.secagg.signed import Signed
from ..run.run_folder import as_kept
from ..storage.files import write_durably
from .holdout import public_corpus


def sign_order(consortium: Consortium, job: Job, run: str | None = None) -> SignedJob:
    """The operator's order for a run of a job; by default a new run.

    Raises for a job that no member would take part in, or that may outlast the roster.
    """
    _ = consortium.operator  # without it the rest would be in vain
    if job.kind.labelled and not job.data.labels:
        raise JobError(
            "data.labels is missing: between machines nobody sees all data, so the job must name "
            'the classes, in order, such as data.labels = ["negative", "positive"]'
        )
    if reasons := list(deployment_refusals(job)):
        raise refused(reasons)
    if job.encrypted and not keeps_to(job.encryption, consortium.limits):
        raise PlanRefused(
            "The job's [encryption] differs from what this consortium's members "
            f"require ({consortium.limits}). Change the job, or make a consortium with: umbel consortium "
            "create FOLDER --job JOB"
        )
    if reasons := job_refusals(job):
        raise refused(reasons)
    check_lasts(consortium, job)
    # Late: stopping a run needs no model.
    from ..learning.base_model import pinned
    from ..learning.probing.probe import fitted
    from ..planning.shaping import shaping_of

    # Owners are told which files they are, and compare that before they look into them.
    fits = fitted(pinned(job), shaping_of(job))
    return signed_order(consortium, as_kept(fits), run or new_run(job))


def sign_again(consortium: Consortium, before: SignedJob, *, former: bool = False) -> SignedJob:
    """The same order for the same run, from now on.

    Raises ``PlanRefused`` for one that the operator's key did not sign, or, if `former`, no former one: the
    file may come from the server, which could have written any job into it.
    """
    card = consortium.card
    keys = [past.key for past in card.past("operator")]
    if _is_signed(before, card, [card.operator_key_bytes, *(keys if former else [])]):
        return sign_order(consortium, before.built, before.run)
    why = "is not what this operator signed"
    if _is_signed(before, card, keys):
        why = (
            "is signed with a replaced key (if that key was not stolen, and you have read the job: "
            "--former)"
        )
    raise PlanRefused(
        f"The order for {before.run} {why}, so it is not signed again. You can sign the job from its own "
        "file, as a new run: umbel sign job"
    )


def _is_signed(order: SignedJob, card: Card, keys: Iterable[bytes]) -> bool:
    """Whether one of these keys signed it, whether or not it holds now."""
    for key in keys:
        with contextlib.suppress(PlanRefused):
            check_job_signature(key, card.id, order.run, order.built.to_json(), order.order)
            return True
    return False


def new_run(job: Job) -> str:
    """The id of a new run, which no other ever has: owners read in it what the operator calls the run."""
    return f"{job.name}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(8)}"


def signed_order(consortium: Consortium, job: Job, run: str) -> SignedJob:
    """An order for this job as this run, and a delegation if the server is apart."""
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


def checked_order(consortium: Consortium, packet: SignedJob) -> SignedJob:
    """The order as it was signed, and no more; ``PlanRefused`` for one that this server cannot carry out."""
    card = consortium.card
    text = packet.built.to_json()
    said = check_job_signature(card.operator_key_bytes, card.id, packet.run, text, packet.order)
    if time.time() > said.expires:
        raise PlanRefused("This order has expired. Sign the job again: umbel sign job")
    if packet.built.encrypted and not consortium.roster_is_by_todays_key:
        raise PlanRefused(
            "The roster here is signed with a replaced key, which owners do not accept. Sign it on the "
            "machine with the keys, and take it first: umbel sign roster, umbel take"
        )
    public_corpus(packet.built)
    order = Signed.from_hex(packet.order).only(card.operator_key_bytes).to_hex()
    if consortium.holds_keys:
        return packet.model_copy(update={"order": order, "delegation": ""})
    own, when = consortium.delegate, time.time()
    try:
        given = delegate_of(packet.delegation, card.operator_key_bytes, card.id, packet.run, when)
    except PlanRefused as error:
        raise PlanRefused(f"This server could not finish the run: {error}.") from None
    if own is None or given != own.hex():
        raise PlanRefused(
            f"The delegation in it is for another server: sign the job where {consortium.path} was split"
        )
    keys = card.operator_key_bytes, card.consortium_key_bytes
    delegation = Signed.from_hex(packet.delegation).only(*keys).to_hex()
    return packet.model_copy(update={"order": order, "delegation": delegation})


def take_members(consortium: Consortium, packet: SignedMembers) -> list[str]:
    """Go by a roster that was signed elsewhere; the names of members that came back by it.

    Raises ``ProtocolError`` for one that does not follow the roster here, or was signed before it.
    """
    follow(consortium, packet.handovers)
    card, current = consortium.card, consortium.current_roster()
    signed = SignedRoster.from_bytes(bytes.fromhex(packet.roster))
    if consortium.pending is not None:
        signed = _merged(consortium, signed)
    roster = open_roster(signed.to_bytes(), card.consortium_key_bytes, current)
    signed.check_time(time.time())
    data = _as_kept(consortium, signed, current).to_bytes()
    requests = {request.name: request for request in packet.requests}
    _check_apart(packet.requests)
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
    given = _merged(consortium, SignedRoster.from_bytes(bytes.fromhex(packet.roster))).approvers(
        current
    )
    if len(given) >= needed:
        return ""
    more = needed - len(given)
    are = "is" if more == 1 else "are"
    return f"Approved by {', '.join(given) or 'nobody'}: {more} more {are} needed."


def _merged(consortium: Consortium, given: SignedRoster) -> SignedRoster:
    """The roster with all approvals that ever came for it."""
    return consortium.approve(given) or given


def _as_kept(consortium: Consortium, signed: SignedRoster, current: Roster | None) -> SignedRoster:
    """What is kept of a roster that came: nothing that was put to it on the way, and no older one."""
    here, key = consortium.roster(), consortium.card.consortium_key_bytes
    known = SignedRoster.from_bytes(here) if here else None
    signed = replace(signed, roster=signed.roster.only(key))
    if current is None or known is None:
        return signed
    if known.whole.hash != signed.whole.hash:
        return signed.only_counted(current)
    if signed.roster.said.counter < known.roster.said.counter:
        raise ConsortiumError(
            "The roster here was signed later than this one. Bring the newest one: umbel sign roster"
        )
    # Whose approvals these are, the roster before this one says; it was looked at when they came.
    return replace(signed, approvals=known.approvals)


def _check_apart(requests: Sequence[Request]) -> None:
    """A request is signed by its own keys alone: one that came through others may bring another's."""
    keys = [key for request in requests for key in request.keys]
    if len(set(keys)) < len(keys):
        names = ", ".join(request.name for request in requests)
        raise ConsortiumError(
            f"Two of the requests in this file have the same key, or one occurs twice ({names}). Bring the "
            "file again as it was signed: umbel sign roster"
        )


def take_certificate(consortium: Consortium, packet: SignedCertificate) -> None:
    """Use a certificate that was made elsewhere, if it fits authority and key of this folder."""
    from ..consortium import tls

    follow(consortium, packet.handovers)
    authority, pem = tls.read_certificate(consortium.ca_certificate), packet.certificate
    if not tls.fits(pem.encode(), authority, tls.read_key(consortium.server_key)):
        raise ConsortiumError(
            "This certificate is not from the consortium's authority, or is for another key. Sign "
            "it again: umbel sign certificate"
        )
    # As it was signed: a file on its way may have got more in it than a certificate.
    found = tls.certificate_pem(tls.certificate_of(pem.encode()))
    write_durably(consortium.server_certificate, found)
