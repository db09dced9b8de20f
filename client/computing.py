"""What comes of an owner's records in one round: under privacy something always does."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..errors import PlanRefused, UmbelError
from ..job import Job
from ..learning.counts import own_counts, own_figures
from ..learning.metrics import Counts
from ..learning.private_counts import PrivateCounts
from ..learning.steps import PrivateSteps
from ..learning.trainer import Outcome
from ..privacy.noise.loss_noise import LossNoise
from ..storage.logs import append_line
from ..strategies import LocalRule
from ..strategies.contract import APART
from ..wire.arrays import Arrays
from ..wire.requests import Assignment
from .answers import log_error
from .order import Asked, Computed
from .timing import Most
from .work import OutOfTime, Work


class Computing:
    """An owner's work on its records, with a log of its own for what failed and for its figures."""

    def __init__(self, name: str, work: Work, log: Path | None) -> None:
        self._name = name
        self._work = work
        self._log = log

    def computed(
        self,
        asked: Asked,
        private: PrivateSteps | None,
        most: Most | None = None,
        hidden: LossNoise | None = None,
    ) -> Computed:
        """What comes of the records; under privacy something always does.

        most: what all is filled up to, if it is. hidden: the noise of the loss, if that is released.

        What cannot be computed at all is then what an owner of no record would send: counts of
        nothing, zeros, or noise if noise is added step by step. It is drawn again, so that it is
        independent of why the first try failed; nothing of that try has left. Only work that is out of
        time (``OutOfTime``) ends without an answer, at the same time as one.
        """
        job, assignment, local = asked.job, asked.assignment, asked.local
        names = asked.trained_here
        found = Computed()
        held, drawn = (most.held, most.drawn) if most else (None, None)

        start = asked.start

        def trained(steps: PrivateSteps | None, *, records: bool = True) -> Outcome:
            return self._work.trained(
                job,
                assignment.round,
                start,
                steps,
                local,
                names=names,
                records=records,
                fill=drawn,
            )

        if asked.test:
            try:
                found.counts = self._work.tested(job, asked.tested, fill=held)
                self._note_test(job, assignment, found.counts)
            except OutOfTime:
                raise
            except Exception as error:
                self._failed(job, found, error)
        if asked.trains and found.error is None:
            try:
                if local is not None and local.needs_loss:
                    fill = most.weighed if most else None
                    local.loss, local.loss_clip = self._loss(asked, hidden, fill)
                self._part(found, asked, trained(private, records=not asked.withheld))
            except OutOfTime:
                raise
            except Exception as error:
                self._failed(job, found, error)
                if private is not None:
                    self._part(found, asked, trained(private.drawn_anew(), records=False))
                elif job.private:
                    self._spend(trained)
        if asked.apart is not None and asked.trains and found.error is None:
            found.personal |= self._apart(asked, asked.apart, most)
        return found

    def _loss(
        self, asked: Asked, hidden: LossNoise | None, fill: int | None
    ) -> tuple[float, float]:
        """Of the model that came, a mean over the training records (0 without any), and its clip.

        If records are withheld it is of none: what is computed, for the time that it takes, leaves nothing.

        Guarantee under privacy: it is what `hidden` makes of it, or no loss at all. What cannot be computed
        counts as what an owner of no record would release.
        """
        job, arrays = asked.job, asked.tested
        if not job.private:
            found = own_figures(job, own_counts(job, self._work.tested(job, arrays, side="train")))
            return float(found.get("loss") or 0.0), 1.0
        if hidden is None:
            raise PlanRefused(f"{self._name}: the job releases no loss, but its strategy needs one")
        total = 0
        try:
            counts = self._work.tested(job, arrays, side="train", fill=fill)
            if isinstance(counts, PrivateCounts) and not asked.withheld:
                total = counts.bounded(job).loss
        except OutOfTime:
            raise
        except Exception as error:
            self._log_failure(error)
        return hidden.hide(total), hidden.clip

    def _apart(self, asked: Asked, local: LocalRule, most: Most | None) -> Arrays:
        """How far the round moves the owner's own model, by the names in its state; not at all if it
        cannot be trained, which nobody else is told."""
        job, own = asked.job, asked.own.arrays if asked.own else {}
        before = {name: own[f"{APART}{name}"] for name in asked.arrays}
        spec = job.training
        fill = spec.local_steps * spec.batch_size if most else None

        def trained(*, records: bool) -> Outcome:
            round_ = asked.assignment.round
            return self._work.trained_apart(job, round_, before, local, records=records, fill=fill)

        try:
            update = trained(records=True).update
        except OutOfTime:
            raise
        except Exception as error:
            self._log_failure(error)
            update = {}
            if job.private:
                self._spend(lambda _, records: trained(records=records))
        return {f"{APART}{name}": array for name, array in update.items()}

    def _part(self, found: Computed, asked: Asked, outcome: Outcome) -> None:
        """What leaves of a training, and what stays here."""
        update = outcome.update
        found.personal = {name: update[name] for name in asked.personal}
        shared = {name: array for name, array in update.items() if name not in asked.personal}
        outcome = replace(outcome, update=shared)
        found.outcome = _to_send(outcome, asked)

    def _spend(self, trained: Callable[..., Outcome]) -> None:
        """The rest of the work of an update that failed, in whose place zeros leave."""
        try:
            trained(None, records=False)
        except OutOfTime:
            raise
        except Exception:
            logging.getLogger(__name__).exception("%s could not fill up its answer", self._name)

    def _failed(self, job: Job, found: Computed, error: Exception) -> None:
        """Into the owner's own log; without privacy the server hears that it failed, too."""
        self._log_failure(error)
        if not job.private:
            found.error = error

    def _log_failure(self, error: Exception) -> None:
        if isinstance(error, UmbelError):
            log_error(self._name, error)
        else:
            logging.getLogger(__name__).exception("%s could not train or test", self._name)

    def _note_test(self, job: Job, assignment: Assignment, counts: Counts) -> None:
        """A line in the owner's own log of figures, which never leave."""
        if self._log is not None:
            line = {"run": assignment.run, "round": assignment.round - assignment.test}
            kept = own_counts(job, counts)
            line["metrics"] = own_figures(job, kept)
            if job.private:
                line["counts"] = kept.to_list()
            append_line(self._log, json.dumps(line))


def _to_send(outcome: Outcome, asked: Asked) -> Outcome:
    """What leaves of an update: with all that the strategy's local half adds to it."""
    update, local = outcome.update, asked.local
    if local is None:
        return replace(outcome, update=asked.channels.vector(update, {}))
    local.model = asked.arrays
    sent, further = local.sends(update), local.further(update)
    vector = asked.channels.scaled(local.told).vector(sent, further)
    return replace(outcome, update=vector, finished=update if asked.two_sums else {})
