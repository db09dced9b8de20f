"""`umbel audit`: every attack on one finished run, and what came of it as JSON values.

A simulation is attacked whole, because its data is on this machine. Of a deployment only the
mechanism can be replayed: records and their losses stay with their owners.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..errors import CertificateError, DataError, PlanRefused, RunFolderError
from ..job import Job
from ..learning.examples import Examples
from ..learning.features import with_features
from ..learning.loading import load_learner
from ..learning.model import Learner, arrays_digest
from ..learning.probe import probed
from ..learning.tasks import Task, task_for
from ..privacy.noise.client_noise import split_noise
from ..run.checkpoint import load_latest
from ..run.run_folder import RunFolder
from ..server.best_model import kept_model
from ..server.conclusion import certify
from ..simulations.federation import Federation, federate
from ..simulations.issuer import run_key
from ..wire.arrays import Arrays
from .base_canaries import CANARIES as CANARIES_THROUGH_BASE
from .base_canaries import replay_through_base
from .canaries import CANARIES, CanaryAudit, Mechanism, Observation, Records, Tell, audit_mechanism
from .client_canaries import audit_clients
from .findings import is_broken, verdict
from .inversion import MOST_CLIENTS, Inverter, View, attack_of
from .membership import Losses, attack, losses_of
from .mislabelled import audit_from_outside

FILE = "audit.json"
_RECORDS_BESIDE = 256
"""Real records that train beside the canaries."""
_MOST_LOSSES, _MOST_LOSSES_THROUGH_BASE = 4_000, 1_000
"""Members, and as many others, whose losses are compared."""
_POOL = 500
_TRIALS, _TRIALS_THROUGH_BASE = 100, 6
_FEWEST = 20
_LEAST_LOSS = 1e-4

_LIMITS = (
    "An audit is a lower bound: these attacks found no more, which does not show that there is no "
    "more to find. The proof is the accounting.",
    "It misses small faults: a mechanism must leak about twice what is claimed before 10,000 "
    "canaries refute it, and no number m of canaries proves more than about ln(m / 3). That the "
    "measured noise is the planned one narrows this for noise, and for nothing else.",
    "Canaries are replayed with the noise, sampling and steps of one client. Where more than a head is "
    "trained, they go through the base model of a simulation; of a deployment, and where a head is "
    "trained, over features and a linear head.",
    "Membership inference by the loss alone is weak; attackers with shadow models do better.",
    "Inversion attacks one step over a single record, the attacker's best case, with simple "
    "methods; a failure here is no proof that nothing can be read.",
)


@dataclass(frozen=True)
class _Subject:
    """A finished run and its claims."""

    folder: RunFolder
    job: Job
    plan: dict[str, Any]
    result: dict[str, Any]

    @property
    def simulated(self) -> bool:
        return any(event["event"] == "partition" for event in self.folder.read_events())

    @property
    def client(self) -> dict[str, Any]:
        """The planned client that has spent most."""
        spent = self.result["privacy"]["clients"]
        return dict(max(self.plan["clients"], key=lambda c: spent.get(c["name"], 0.0)))

    @property
    def claim(self) -> float:
        return float(self.result["privacy"]["clients"][self.client["name"]])

    @property
    def mechanism(self) -> Mechanism:
        client, training = self.client, self.job.training
        events = self.folder.read_events()
        rounds = sum(
            event["event"] == "round" and client["name"] in event["clients"] for event in events
        )
        return Mechanism(
            noise_multiplier=client["noise_multiplier"],
            sampling_rate=client["sampling_rate"],
            clipping_norm=self.job.privacy.clipping_norm,
            rounds=rounds or client["rounds"],
            local_steps=training.local_steps,
            records_per_group=self.job.data.records_per_group if self.job.per_group else None,
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
    `production`, ``DataError`` where the data is no longer what the run used.
    """
    if canaries < _FEWEST:
        raise PlanRefused(f"--canaries {canaries}: an audit takes at least {_FEWEST} of them.")
    subject = _open(path)
    if not subject.simulated and not production:
        raise RunFolderError(
            f"{path} is a deployment's run: the records are with their owners, so that membership "
            "inference and gradient inversion are not possible here. The canary audit is: it "
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
        missing = {"skipped": "the records are with their owners, and were not looked at"}
        found["canaries"] = _canaries(subject, Records.none(), canaries, tell)
        found |= dict.fromkeys(("mislabelled", "membership", "inversion"), missing)
    found["broken"] = is_broken(found)
    found["verdict"] = verdict(found)
    found["limits"] = list(_LIMITS)
    subject.folder.write_json(FILE, found)
    if subject.simulated and (path / "certificate.json").is_file():
        # A folder that is not what it was keeps its certificate, and umbel verify says so.
        with suppress(CertificateError):
            certify(subject.folder, run_key(path))
    return found


def _open(path: Path) -> _Subject:
    folder = RunFolder.open(path)
    if not (path / "result.json").is_file():
        raise RunFolderError(
            f"{path} is not finished, so there is nothing to audit yet. Go on with it: umbel "
            f"simulate --resume --run-dir {path}"
        )
    return _Subject(
        folder, folder.job, folder.read_json("plan.json"), folder.read_json("result.json")
    )


def _attack_simulation(subject: _Subject, canaries: int, tell: Tell) -> dict[str, Any]:
    tell("data", 0, 0)
    federation = federate(subject.job)
    ran = next(e for e in subject.folder.read_events() if e["event"] == "partition")
    if federation.partition_event()["clients"] != ran["clients"]:
        raise DataError(
            f"{subject.job.data.path} is not what it was when {subject.folder.path} ran: its "
            "clients have other records. Put the old file back, or run the job again."
        )
    tell("model", 0, 0)
    learner = probed(load_learner(federation.job, federation.classes))
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
        "mislabelled": _mislabelled(subject, federation, learner, task, tell),
        "membership": _membership(federation, learner, task, final, tell),
        "inversion": _inversion(subject, federation, learner, task, final, tell),
    }


def _final(subject: _Subject, learner: Learner) -> Arrays:
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
"""Replays so many canaries through the base model."""


def _through_base(
    subject: _Subject, federation: Federation, learner: Learner, task: Task, final: Arrays
) -> Through | None:
    """How canaries go through the base model; None if nothing but a head on features is trained."""
    if not subject.job.noised_locally or learner.network.head_alone:
        return None
    share = next(s for s in federation.shares if s.name == subject.client["name"])
    real = _some(federation.data(share).train, _RECORDS_BESIDE)
    return partial(replay_through_base, learner, task, final, real, subject.mechanism)


def _canaries(
    subject: _Subject,
    records: Records,
    canaries: int,
    tell: Tell,
    through: Through | None = None,
) -> dict[str, Any]:
    job, mechanism = subject.job, subject.mechanism
    if not job.private:
        return {"skipped": _no_claim(job)}
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
        **_bound(seen, subject.claim),
        "client": subject.client["name"],
        **asdict(mechanism),
        "measured": asdict(measured),
        "short_of_noise": measured.noise_high < mechanism.noise_multiplier,
        "drawn_too_often": measured.rate_low > mechanism.sampling_rate,
    }


def _bound(seen: CanaryAudit, claim: float) -> dict[str, Any]:
    refuted = seen.lower_bound > claim
    return {**asdict(seen), "claimed_epsilon": claim, "refuted": refuted}


def _no_claim(job: Job) -> str:
    if not job.private:
        return "the run claims no differential privacy, so there is no epsilon to refute"
    return f"the run protects one {job.privacy.unit}, and this attack is on single examples"


def _records(subject: _Subject, federation: Federation, learner: Learner) -> Records:
    """Features of some real records of the audited client; none for a language model."""
    if not learner.job.kind.labelled or not learner.job.noised_locally:
        return Records.none()
    share = next(s for s in federation.shares if s.name == subject.client["name"])
    some = _some(with_features(learner, federation.data(share).train), _RECORDS_BESIDE)
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


def _mislabelled(
    subject: _Subject, federation: Federation, learner: Learner, task: Task, tell: Tell
) -> dict[str, Any]:
    if subject.job.privacy.unit != "example":
        return {"skipped": _no_claim(subject.job)}
    if not learner.network.head_alone:
        return {"skipped": "only for a head on frozen features, where training again is cheap"}
    tell("mislabelled", 0, 0)
    share = next(s for s in federation.shares if s.name == subject.client["name"])
    own = with_features(learner, federation.data(share).train)
    others = [with_features(learner, federation.data(s).test) for s in federation.shares]
    held_out = Examples.concatenate([part for part in others if len(part)] or [own])
    if own.features is None or held_out.features is None or not any(map(len, others)):
        return {"skipped": "it needs held-out records, and a head that reads features"}
    seen = audit_from_outside(
        learner,
        task,
        subject.mechanism,
        own,
        held_out,
        federation.classes,
        claim=subject.claim,
        delta=subject.job.privacy.delta,
    )
    return _bound(seen, subject.claim)


def _membership(
    federation: Federation, learner: Learner, task: Task, final: Arrays, tell: Tell
) -> dict[str, Any]:
    """The attack over all clients, on each client, and on the model before training."""
    data = [(share.name, federation.data(share)) for share in federation.shares]
    most = _MOST_LOSSES if learner.network.head_alone else _MOST_LOSSES_THROUGH_BASE
    most = max(2, most // len(data))
    sides = [
        (
            name,
            _some(with_features(learner, both.train), most),
            _some(with_features(learner, both.test), most),
        )
        for name, both in data
    ]
    total = 2 * sum(len(train) + len(test) for _, train, test in sides)
    if not any(len(train) and len(test) for _, train, test in sides):
        return {"skipped": "there are no held-out records to compare with"}
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        tell("membership", done, total)

    def measure(weights: Arrays) -> dict[str, Losses]:
        learner.network.load(weights)
        return {
            name: (
                losses_of(learner, task, train, progress),
                losses_of(learner, task, test, progress),
            )
            for name, train, test in sides
        }

    before, after = measure(learner.initial), measure(final)
    return {
        "interval": "DeLong, 95 %",
        "final": _figures(*after.values()),
        "before": _figures(*before.values()),
        "clients": {
            name: _figures(losses)
            for name, losses in after.items()
            if min(map(len, losses)) >= _FEWEST
        },
        "losses": _histogram(after),
    }


def _figures(*groups: Losses) -> dict[str, Any]:
    found = attack(groups)
    return {**asdict(found), "telling": found.telling}


def _histogram(losses: dict[str, Losses]) -> dict[str, Any]:
    """Shares of losses in bins of equal ratio, for the picture."""
    members, others = map(np.concatenate, zip(*losses.values(), strict=True))
    everything = np.concatenate([members, others])
    low, high = max(_LEAST_LOSS, everything.min()), everything.max() + _LEAST_LOSS
    edges = np.geomspace(low, 1.001 * high, 41)
    members, others = np.maximum(members, low), np.maximum(others, low)
    return {
        "edges": edges.tolist(),
        "members": (np.histogram(members, edges)[0] / len(members)).tolist(),
        "others": (np.histogram(others, edges)[0] / len(others)).tolist(),
    }


def _some(examples: Examples, most: int) -> Examples:
    """At most so many of the examples, drawn evenly: the first ones may be of one kind."""
    drawn = np.random.default_rng(0).permutation(len(examples))[:most]
    return examples.take(np.sort(drawn))


def _inversion(
    subject: _Subject,
    federation: Federation,
    learner: Learner,
    task: Task,
    final: Arrays,
    tell: Tell,
) -> dict[str, Any]:
    kind = attack_of(learner)
    if kind is None:
        return {
            "skipped": "no attack is implemented for what this job trains (neither a linear head "
            "nor token embeddings)"
        }
    job, shares = subject.job, federation.shares
    if job.privacy.unit not in ("example", "none"):
        return {"skipped": f"not implemented where noise protects one {job.privacy.unit}"}
    clients = min(MOST_CLIENTS, subject.plan["cohort"]["size"], len(shares))
    each = max(1, _POOL // len(shares))
    parts = [_some(with_features(learner, federation.data(s).train), each) for s in shares]
    firsts = np.cumsum([0, *map(len, parts)])
    pool = Examples.concatenate(parts)
    inverter = Inverter(learner, task, final, pool)
    trials = _TRIALS if learner.network.head_alone else _TRIALS_THROUGH_BASE
    groups = [
        [_place(firsts, trial * clients + turn) for turn in range(clients)]
        for trial in range(min(trials, max(1, len(pool) // clients)))
    ]
    alone = [group[:1] for group in groups]
    noises: list[tuple[float, float] | None] = [None]
    if job.privacy.unit == "example":
        noises.append((subject.mechanism.noise_multiplier, job.privacy.clipping_norm))
    views, total, done = [], 2 * len(noises) * trials, 0

    def step() -> None:
        nonlocal done
        done += 1
        tell("inversion", done, total)

    for noise in noises:
        for victims in (alone, groups):
            view = inverter.view(victims, noise, tell=step)
            summed = victims is groups
            seen = summed == job.encrypted and (noise is not None) == (len(noises) > 1)
            views.append(_view(view, summed, seen))
    return {"attack": kind, "pool": len(pool), "views": views}


def _place(firsts: np.ndarray, turn: int) -> int:
    """Place in the pool of the record that is attacked at a turn; clients take turns."""
    round_, client = divmod(turn, len(firsts) - 1)
    held = int(firsts[client + 1] - firsts[client])
    return int(firsts[client]) + round_ % held


def _view(view: View, summed: bool, seen: bool) -> dict[str, Any]:
    return {
        "summed": summed,
        "clients": view.clients,
        "noised": view.noised,
        "seen_by_server": seen,
        "share": view.share,
        "chance": view.chance,
        "trials": [asdict(trial) for trial in view.trials],
    }
