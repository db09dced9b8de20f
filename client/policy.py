"""An owner's policy: what its agent refuses, whatever a job says.

It is read from ``policy.toml`` in the owner's folder. Jobs come from others and may change with every
run; the policy is written here, by anyone who answers for the data, and holds over all of them. Each
reason for a refusal names the policy's key, and tells nothing of the data.
"""

from __future__ import annotations

import json
import math
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from ..errors import PlanRefused, StrategyError, UmbelError
from ..job import Job
from ..planning.limits import secure_limits
from ..planning.refusals import job_refusals
from ..storage.documents import explain, listed
from ..storage.files import write_new
from ..strategies.residual_rank import residual_rank
from .rules import (
    EncryptionRules,
    JobRules,
    PrivacyRules,
    ResourceRules,
    ResultRules,
    Section,
    window_of,
    within,
)

_WIDTH = 92


class NotYet(PlanRefused):
    """The owner refuses for now; the same request may be answered later."""


class Policy(Section):
    """What one data owner insists on; the default is strict, fit for a deployment."""

    privacy: PrivacyRules = PrivacyRules()
    encryption: EncryptionRules = EncryptionRules()
    jobs: JobRules = JobRules()
    results: ResultRules = ResultRules()
    resources: ResourceRules = ResourceRules()

    @classmethod
    def simulated(cls, job: Job, own_rank: int = 0) -> Policy:
        """A virtual owner's: it permits what the job asks, but perhaps not what the server can read."""
        most = sys.float_info.max
        return cls(
            privacy=PrivacyRules(
                epsilon_limit=max(job.privacy.epsilon, job.privacy.owner_limit),
                epsilon_per_job=most,
                delta_limit=job.privacy.delta,
                units=["example", "group", "client", "none"],
                central_noise=True,
                exact_counts=True,
            ),
            encryption=EncryptionRules(
                required=job.simulation.encryption_required,
                confirm_required=False,
                group_sums=True,
                name_spoilers=job.encryption.name_spoilers,
            ),
            jobs=JobRules(
                strategies=[job.strategy.name],
                max_rounds=sys.maxsize,
                max_steps=sys.maxsize,
                max_batch=sys.maxsize,
                max_length=sys.maxsize,
                max_rank=sys.maxsize,
                own_rank=own_rank,
                max_rank_modules=sys.maxsize,
                max_hours=most,
            ),
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """The policy in a TOML file; an ``UmbelError`` names each wrong key and what is known instead."""
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
            return cls.model_validate(values)
        except FileNotFoundError:
            raise UmbelError(
                f"There is no policy {path}. Without a policy nothing is done with the data. umbel "
                "client init writes it; or restore yours from a backup."
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise UmbelError(f"{path} cannot be read: {error}") from None
        except tomllib.TOMLDecodeError as error:
            raise UmbelError(f"{path} is not valid TOML: {error}") from None
        except ValidationError as error:
            raise UmbelError(f"{path}: {explain(error, cls)}") from None

    def check(self, owner: str, job: Job) -> None:
        """Raise ``PlanRefused``, with every reason, for a job that this owner takes no part in."""
        if reasons := self.reasons(job):
            raise PlanRefused(f"{owner}'s policy {' · '.join(reasons)}")

    def reasons(self, job: Job) -> list[str]:
        """Why an owner with this policy takes no part in a job; none if it does."""
        return [
            *self._privacy_reasons(job),
            *self._encryption_reasons(job),
            # What every plan refuses too: an owner takes no plan on trust.
            *(f"refuses {reason}" for reason in self._plan_reasons(job)),
            *self._job_reasons(job),
        ]

    def _plan_reasons(self, job: Job) -> list[str]:
        try:
            return job_refusals(job, self.jobs.strategies)
        except StrategyError as error:
            return [f"a strategy that does not load here: {error}"]

    def check_model(self, owner: str, base_digest: str | None) -> None:
        """Raise ``PlanRefused`` for a base model, by its SHA-256, that the owner does not accept.

        To be asked before anything is looked up, contacted or opened for the job.
        """
        if base_digest is None:
            raise PlanRefused(
                f"{owner} does not open a base model before it knows its digest: the job must give "
                "model.sha256, as umbel run does"
            )
        if self.jobs.base_models and base_digest not in self.jobs.base_models:
            raise PlanRefused(
                f"{owner}'s policy does not accept the base model with SHA-256 {base_digest} "
                "(jobs.base_models)"
            )

    def check_shapes(self, owner: str, job: Job, shapes: Mapping[str, Sequence[int]]) -> None:
        """Raise ``PlanRefused`` for more or larger low-rank adapters, by what is trained of the model."""
        modules = sum("lora_A" in name for name in shapes)
        rank = job.rank + residual_rank(job.strategy)
        if rank * modules > self.jobs.max_rank_modules:
            raise PlanRefused(
                f"{owner}'s policy allows a rank times modules of at most {self.jobs.max_rank_modules} "
                f"(jobs.max_rank_modules), but the job has {rank} x {modules}: name fewer modules in "
                "model.lora.target, or lower model.lora.rank"
            )

    def check_operator(self, owner: str, operator: str, card: str) -> None:
        """Raise ``PlanRefused`` for a job that another key signed than the owner accepts.

        operator: the signer's public signing key; card: the one in consortium.json; both in hexadecimal.
        """
        if operator not in (self.jobs.operators or [card]):
            raise PlanRefused(
                f"{owner}'s policy does not accept jobs from the operator {operator[:16]}… "
                "(jobs.operators)"
            )

    def check_hours(self, owner: str, seconds: float) -> None:
        """Refuse a run whose answers should take `seconds` by public numbers, before its first round."""
        hours = seconds / 3600
        if not hours <= self.jobs.max_hours:
            raise PlanRefused(
                f"{owner}'s policy lets one run train for at most {self.jobs.max_hours:g} hours "
                f"(jobs.max_hours), but by public numbers this one would take {hours:.3g} there: lower "
                "training.rounds, training.local_steps or model.max_length"
            )

    def check_time(self, owner: str, now: datetime, spent_seconds: float) -> None:
        """Refuse to start training outside of the owner's hours, or beyond a run's longest time.

        now: local where it names no time zone. spent_seconds: how long this run has trained here.
        Raises ``NotYet`` if waiting helps, ``PlanRefused`` if the run has used up its time.
        """
        rules = self.jobs
        # Written so that a time that is not a number refuses.
        if not spent_seconds < rules.max_hours * 3600:
            raise PlanRefused(
                f"{owner}'s policy lets one run train for at most {rules.max_hours:g} hours "
                "(jobs.max_hours), and this one has already done so"
            )
        clock = now.astimezone().time()
        if rules.hours and not any(within(clock, *window_of(window)) for window in rules.hours):
            raise NotYet(
                f"{owner}'s policy lets training start only at {', '.join(rules.hours)} local time "
                "(jobs.hours)"
            )

    def epsilon_limit_for(self, job: Job) -> float:
        """The ledger's limit over all jobs: the owner's, or the job's own where that is lower."""
        return min(self.privacy.epsilon_limit, job.privacy.limit or math.inf)

    def _privacy_reasons(self, job: Job) -> Iterator[str]:
        rules, asked = self.privacy, job.privacy
        # A group's records are protected together, so each of them is: no weaker than "example".
        accepted = {*rules.units, *(["group"] if "example" in rules.units else [])}
        if asked.unit not in accepted:
            yield (
                f"accepts privacy.unit {listed(rules.units, ' or ')} (privacy.units), but the job has "
                f'"{asked.unit}"'
            )
        if not job.private:
            return
        if job.per_client and not job.noised_by_clients and not rules.central_noise:
            yield (
                "does not trust the server with sums without noise (privacy.central_noise), but the job "
                'has privacy.mechanism = "central"'
            )
        if job.counts == "exact" and not rules.exact_counts:
            yield (
                "does not allow exact counts of held-out records (privacy.exact_counts), but the job "
                'has evaluation.counts = "exact"'
            )
        most = min(rules.epsilon_per_job, rules.epsilon_limit)
        wanted = max(asked.epsilon, asked.owner_limit)
        if wanted > most:
            key = "epsilon_per_job" if most == rules.epsilon_per_job else "epsilon_limit"
            yield (
                f"allows one job at most epsilon {most:g} (privacy.{key}), but the job asks "
                f"for {wanted:g}"
            )
        if asked.delta > rules.delta_limit:
            yield (
                f"allows at most delta {rules.delta_limit:g} (privacy.delta_limit), but the job "
                f"has {asked.delta:g}"
            )

    def _encryption_reasons(self, job: Job) -> Iterator[str]:
        rules = self.encryption
        if not job.encrypted:
            if rules.required:
                yield (
                    "requires encrypted updates (encryption.required), but the job has "
                    'encryption.mode = "none"'
                )
            return
        fewest = secure_limits(job.encryption).minimum
        if fewest < rules.smallest_cohort:
            yield (
                f"requires sums over at least {rules.smallest_cohort} clients "
                f"(encryption.smallest_cohort), but the job opens sums over {fewest}"
            )
        if job.encryption.group_size is not None and not rules.group_sums:
            yield (
                "does not allow sums of groups (encryption.group_sums), but the job has "
                f"encryption.group_size = {job.encryption.group_size}"
            )
        if job.encryption.name_spoilers and not rules.name_spoilers:
            yield (
                "does not allow sums of smaller groups, to name the one that spoiled a sum "
                "(encryption.name_spoilers), but the job has encryption.name_spoilers = true"
            )
        if rules.confirm_required and not job.encryption.confirm:
            yield (
                "requires the confirmation trip (encryption.confirm_required), but the job has "
                "encryption.confirm = false"
            )

    def _job_reasons(self, job: Job) -> Iterator[str]:
        rules = self.jobs
        for key, accepted, found in (
            ("tasks", rules.tasks, job.task),
            ("adapters", rules.adapters, job.adapter),
            ("quantization", rules.quantization, job.model.quantization or "none"),
            ("strategies", rules.strategies, job.strategy.name),
        ):
            if accepted and found not in accepted:
                yield f'accepts {listed(accepted, " or ")} (jobs.{key}), but the job has "{found}"'
        training = job.training
        for key, what, most, asked in (
            ("max_rounds", "rounds", rules.max_rounds, training.rounds),
            ("max_steps", "steps in a round", rules.max_steps, training.local_steps),
            ("max_batch", "records in a step", rules.max_batch, training.batch_size),
            ("max_length", "tokens in a text", rules.max_length, job.model.max_length),
            ("max_rank", "as the rank of adapters", rules.max_rank, job.rank),
            ("max_rank", "as the rank of residuals", rules.max_rank, residual_rank(job.strategy)),
        ):
            if asked > most:
                yield f"allows at most {most} {what} (jobs.{key}), but the job has {asked}"


def write_policy_template(path: Path) -> None:
    """Write the default policy with every key, its meaning and its value; it reads as ``Policy()``.

    The values stand in the file as such: what an owner has signed off does not change with the
    defaults of a later version.
    """
    try:
        write_new(path, "\n".join(_template()) + "\n")
    except FileExistsError:
        raise UmbelError(f"{path} exists already; remove it to begin with the default.") from None


def _template() -> Iterator[str]:
    yield "# What this owner's agent refuses, whatever a job says. The agent reads this file when it starts."
    for name, rules in Policy():
        yield from ("", f"[{name}]", f"# {rules.__doc__}")
        for key, field in type(rules).model_fields.items():
            text = textwrap.wrap(field.description or "", _WIDTH - 2)
            yield from ("", *(f"# {line}" for line in text))
            # What a policy holds (texts, numbers, truth values, lists of texts) is written alike in both.
            yield f"{key} = {json.dumps(getattr(rules, key))}"
