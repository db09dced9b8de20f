"""`umbel audit`: every attack on one finished run, and what came of it as JSON values.

A simulation is attacked whole, because its data is on this machine. Of a deployment only the
mechanism can be replayed: records and their losses stay with their owners.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..errors import CertificateError, DataError, PlanRefused, RunFolderError
from ..learning.examples import Examples
from ..learning.features import with_features
from ..learning.loading import load_learner
from ..learning.model import Learner, arrays_digest
from ..learning.probing.probe import probed
from ..learning.tasks import Task, task_for
from ..planning.shaping import shaping_of
from ..privacy.noise.client_noise import split_noise
from ..run.checkpoint import load_latest
from ..run.events import Partition
from ..server.best_model import kept_model
from ..server.conclusion import certify
from ..simulations.federation import Federation, federate
from ..simulations.issuer import run_key
from ..wire.arrays import Arrays
from .base_canaries import CANARIES as CANARIES_THROUGH_BASE
from .base_canaries import replay_through_base
from .canaries import CANARIES, Observation, Records, Tell, audit_mechanism
from .client_canaries import audit_clients
from .findings import is_broken, verdict
from .on_records import inversion, membership, mislabelled
from .subject import FEWEST, Subject, a_few, bounded, no_claim, opened

FILE = "audit.json"
_RECORDS_BESIDE = 256
"""Real records that train beside the canaries."""

_LIMITS = (
    "An audit is a lower bound: that these attacks found no more does not show that there is nothing "
    "more to find. The proof is the accounting.",
    "It misses small faults: a mechanism must leak about twice what is claimed before 10,000 "
    "canaries refute it, and no number m of canaries proves more than about ln(m / 3). The "
    "comparison of measured and planned noise narrows this for noise only.",
    "Canaries are replayed with the noise, sampling and steps of one client. If more than a head is "
    "trained, a simulation's canaries go through the base model; those of a deployment, or if only a "
    "head is trained, go through features and a linear head.",
    "Membership inference by the loss alone is weak; attackers with shadow models do better.",
    "Inversion attacks one step over a single record, the attacker's best case, with simple "
    "methods; a failure here is no proof that nothing can be read.",
)


def audit_run(
    path: Path,
    *,
    canaries: int = CANARIES,
    production: bool = False,
    tell: Tell = lambda *_: None,
) -> dict[str, Any]:
    """Attack the run in `path`, write ``audit.json`` there, and return what is in it.

    Raises ``RunFolderError`` for a run that is not finished, and for a deployment's run unless
    `production`, ``DataError`` if the data is no longer what the run used.
    """
    if canaries < FEWEST:
        raise PlanRefused(f"--canaries {canaries}: an audit takes at least {FEWEST} of them.")
    subject = opened(path)
    if not subject.simulated and not production:
        raise RunFolderError(
            f"{path} is a deployment's run: the records are at their owners, so membership inference "
            "and gradient inversion are not possible here. The canary audit is: it "
            "replays noise, sampling and accounting on this machine, touches no owner's data and "
            "spends no privacy. Ask for it with --production."
        )
    found: dict[str, Any] = {
        "umbel_version": __version__,
        "name": subject.job.name,
        "simulated": subject.simulated,
        "reproducible": bool(subject.result.get("reproducible")),
        "adapter_sha256": subject.result["adapter_sha256"],
    }
    if subject.simulated:
        found |= _attack_simulation(subject, canaries, tell)
    else:
        missing = {"skipped": "the records are at their owners, and were not read"}
        found["canaries"] = _canaries(subject, Records.none(), canaries, tell)
        found |= dict.fromkeys(("mislabelled", "membership", "inversion"), missing)
    found["broken"] = is_broken(found)
    found["verdict"] = verdict(found)
    found["limits"] = list(_LIMITS)
    subject.folder.write_json(FILE, found, secret=True)
    if subject.simulated and (path / "certificate.json").is_file():
        # A folder that is not what it was keeps its certificate, and umbel verify says so.
        with suppress(CertificateError):
            certify(subject.folder, run_key(path))
    return found


def _attack_simulation(subject: Subject, canaries: int, tell: Tell) -> dict[str, Any]:
    tell("data", 0, 0)
    federation = federate(subject.job)
    ran = subject.folder.told(Partition)[0]
    if federation.partition_event().clients != ran.clients:
        raise DataError(
            f"{subject.job.data.path} has changed since {subject.folder.path} ran: its clients "
            "have other records. Put the old file back, or run the job again."
        )
    tell("model", 0, 0)
    job = federation.job
    learner = probed(load_learner(job, federation.classes, shaping_of(job)))
    task = task_for(federation.job, federation.classes)
    final = _final(subject, learner)
    return {
        "canaries": _canaries(
            subject,
            _records(subject, federation, learner),
            canaries,
            tell,
            _through_base(subject, federation, learner, task, final),
        ),
        "mislabelled": mislabelled(subject, federation, learner, task, tell),
        "membership": membership(federation, learner, task, final, tell),
        "inversion": inversion(subject, federation, learner, task, final, tell),
    }


def _final(subject: Subject, learner: Learner) -> Arrays:
    shapes = {name: array.shape for name, array in learner.initial.items()}
    checkpoints, digest = subject.folder.path / "checkpoints", subject.result["adapter_sha256"]
    last = load_latest(checkpoints, shapes).arrays
    if arrays_digest(last) == digest:
        return last
    kept = kept_model(checkpoints, subject.result["kept"]["round"], digest, last)
    if kept is None:
        raise RunFolderError(
            f"No checkpoint of {subject.folder.path} is the model of its result.json. The folder was "
            "changed, so it cannot be audited."
        )
    return kept


Through = Callable[[int], Observation]
"""Replays this many canaries through the base model."""


def _through_base(
    subject: Subject, federation: Federation, learner: Learner, task: Task, final: Arrays
) -> Through | None:
    """How canaries go through the base model; None if nothing but a head on features is trained."""
    if not subject.job.noised_locally or learner.network.head_alone:
        return None
    share = next(s for s in federation.shares if s.name == subject.client["name"])
    real = a_few(federation.data(share).train, _RECORDS_BESIDE)
    return partial(replay_through_base, learner, task, final, real, subject.mechanism)


def _canaries(
    subject: Subject,
    records: Records,
    canaries: int,
    tell: Tell,
    through: Through | None = None,
) -> dict[str, Any]:
    job, mechanism = subject.job, subject.mechanism
    if not job.private:
        return {"skipped": no_claim(job)}
    if job.per_client:
        update, _ = split_noise(mechanism.noise_multiplier, job.privacy.clipping == "adaptive")
        mechanism = replace(mechanism, noise_multiplier=update, local_steps=1)
        members, consortium = subject.plan["cohort"]["size"], len(subject.plan["clients"])
        seen, measured = audit_clients(
            job,
            members,
            consortium,
            rounds=mechanism.rounds,
            claim=subject.claim,
            canaries=canaries,
            tell=tell,
        )
    else:
        seen, measured = audit_mechanism(
            job,
            mechanism,
            records,
            claim=subject.claim,
            delta=job.privacy.delta,
            canaries=canaries if through is None else min(canaries, CANARIES_THROUGH_BASE),
            through=through,
            tell=tell,
        )
    return {
        "through_base": through is not None,
        **bounded(seen, subject.claim),
        "client": subject.client["name"],
        **asdict(mechanism),
        "measured": asdict(measured),
        "short_of_noise": measured.noise_high < mechanism.noise_multiplier,
        "drawn_too_often": measured.rate_low > mechanism.sampling_rate,
    }


def _records(subject: Subject, federation: Federation, learner: Learner) -> Records:
    """Features of some real records of the audited client; none for a language model."""
    if not learner.job.kind.classified or not learner.job.noised_locally:
        return Records.none()
    share = next(s for s in federation.shares if s.name == subject.client["name"])
    some = a_few(with_features(learner, federation.data(share).train), _RECORDS_BESIDE)
    return Records(_features(learner, some), some.labels, federation.classes)


@torch.no_grad()
def _features(learner: Learner, examples: Examples) -> np.ndarray:
    if examples.features is not None:
        return examples.features
    network = learner.network.eval()
    parts = [
        network.features(learner.batch(examples, chunk)).cpu().numpy()
        for chunk in np.array_split(np.arange(len(examples)), max(1, len(examples) // 64))
    ]
    return np.concatenate(parts)
