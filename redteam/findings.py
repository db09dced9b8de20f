"""What an audit found, in a sentence for each attack."""

from __future__ import annotations

from typing import Any

_SEEDED = (
    "This run drew its noise from the job's seed: anyone who knows the seed can subtract it, "
    "and no guarantee holds, whatever the attacks below find."
)


def verdict(found: dict[str, Any]) -> list[str]:
    """A sentence for each attack."""
    return [
        line
        for line in (
            _SEEDED if found["reproducible"] else "",
            _canary_line(found["canaries"]),
            _membership_line(found["membership"]),
            _inversion_line(found["inversion"]),
        )
        if line
    ]


def _canary_line(figures: dict[str, Any]) -> str:
    if "skipped" in figures:
        return f"Canaries: not audited, {figures['skipped']}."
    claim, bound = figures["claimed_epsilon"], figures["lower_bound"]
    measured = figures["measured"]
    for fault, what in (
        ("short_of_noise", "noise_multiplier"),
        ("drawn_too_often", "sampling_rate"),
    ):
        if figures[fault]:
            return (
                f"THE PLAN IS BROKEN. The {what.replace('_', ' ')} that was measured is "
                f"{measured[what]:.4g}, but the plan says {figures[what]:.4g}."
            )
    base = (
        f"Epsilon is at least {bound:.2f} with {figures['confidence']:.0%} confidence, and the run "
        f"claims at most {claim:.2f}"
    )
    if figures["refuted"]:
        return f"THE CLAIM IS REFUTED. {base}: noise, sampling or accounting is broken."
    return (
        f"{base}: the canaries do not contradict the claim. The noise multiplier that was measured "
        f"is {measured['noise_multiplier']:.4g} (planned: {figures['noise_multiplier']:.4g})."
    )


def is_broken(found: dict[str, Any]) -> bool:
    """Whether a run is not as private as it says."""
    figures = found["canaries"]
    return any(figures.get(fault) for fault in ("refuted", "short_of_noise", "drawn_too_often"))


def _membership_line(figures: dict[str, Any]) -> str:
    if "skipped" in figures:
        return f"Membership: not attacked, {figures['skipped']}."
    final, before = figures["final"], figures["before"]
    auc = f"AUC {final['auc']:.3f} ({final['low']:.3f} to {final['high']:.3f})"
    if not final["telling"]:
        return f"The loss does not show which records were trained on: {auc}."
    if before["telling"]:
        return (
            f"Training and held-out records differ in their losses, {auc}, but they did before "
            f"training too ({before['auc']:.3f}): the data explain this, at least in part."
        )
    return f"The loss reveals something about which records were trained on: {auc}."


def _inversion_line(figures: dict[str, Any]) -> str:
    if "skipped" in figures:
        return f"Inversion: not attacked, {figures['skipped']}."
    bare = figures["views"][0]
    seen = next(view for view in figures["views"] if view["seen_by_server"])
    what = "records" if figures["attack"] == "features" else "tokens"
    line = (
        f"One client's bare update gives away {bare['share']:.0%} of the {what} "
        f"(guessing: {bare['chance']:.0%})"
    )
    if seen is bare:
        return f"{line}, and that is what the server of this run saw."
    return (
        f"{line}; from what the server of this run saw, {seen['share']:.0%} "
        f"(guessing: {seen['chance']:.0%})."
    )
