"""What is protected, and from whom: privacy, encryption."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .section import PositiveFloat, Section, UnitName

LEAST_CLIPPING_NORM, MOST_CLIPPING_NORM = 1e-3, 1e3
"""Far from where float32 loses squares, so that no gradient's norm can hide (``privacy.dpsgd.optimizer``)."""


class PrivacySpec(Section):
    """Differential privacy (see docs/concepts.md)."""

    unit: UnitName = Field(
        "example",
        description='What is protected: "example", one record of one owner, by DP-SGD at the '
        'owner; "group", all records of one group at one owner (one patient: one value of '
        'data.group_column), by DP-SGD that draws whole groups; "client", all data of one owner, by '
        'noise in the sum of updates (for many owners); or "none".',
    )
    mechanism: Literal["distributed", "central"] = Field(
        "distributed",
        description='Who adds the noise if privacy.unit is "client": with "distributed" each client '
        'adds its share, so that nobody sees a sum without noise; with "central" the server adds '
        'it, and must be trusted with the sums. Each owner\'s policy must allow "central".',
    )
    epsilon: PositiveFloat = Field(
        4.0, description="The most epsilon that the whole job may cost any one client."
    )
    delta: float = Field(
        1e-5,
        gt=0,
        lt=1,
        description='Delta; below 1 / number of records (of groups if privacy.unit is "group").',
    )
    clipping_norm: float = Field(
        1.0,
        ge=LEAST_CLIPPING_NORM,
        le=MOST_CLIPPING_NORM,
        description="L2 norm to which each example's gradient, over all trained weights, is clipped; "
        'if privacy.unit is "client", the norm of each client\'s whole update. From 0.001 to 1000.',
    )
    clipping: Literal["fixed", "adaptive"] = Field(
        "fixed",
        description='"adaptive" moves clipping_norm after each round towards the quantile of the '
        "clients' norms below, by a noised count that takes a tenth of the budget (only if "
        'privacy.unit is "client").',
    )
    clipping_quantile: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Share of clients whose update an adaptive clipping norm should not clip.",
    )
    spare_rounds: int | None = Field(
        None,
        ge=0,
        description="Rounds that may be trained again within epsilon, because the noise of all "
        "rounds is made for them: for updates that were really lost. A repetition (after a crash, "
        "or when too few answered) in which owners send the update that they kept costs nothing, "
        'so 1 is enough for nearly all runs, and the default. If privacy.unit is "client" the '
        "noise is shared, so every repetition costs; the default is then 1 and one more for every "
        "10 rounds.",
    )
    limit: PositiveFloat | None = Field(
        None,
        description="The most epsilon that one run may cost a client if rounds are repeated more often "
        "than spare_rounds; in a simulation, also the limit of each owner's ledger over all jobs. "
        "Default: the job's epsilon. Between machines each owner's policy limits all jobs together.",
    )

    @property
    def owner_limit(self) -> float:
        """Most that one run may cost a client, with the default filled in."""
        return self.limit or self.epsilon


class EncryptionSpec(Section):
    """What the server can read of updates and counts (see docs/secure-aggregation.md)."""

    mode: Literal["secure-sum", "none"] = Field(
        "secure-sum",
        description='"secure-sum": the server can open only the sum over a cohort (secure '
        "aggregation); \"none\": it sees each client's update, which every owner's policy must allow.",
    )
    minimum: int = Field(3, ge=3, description="The fewest clients in a sum that may be opened.")
    colluders: float = Field(
        0.1,
        ge=0,
        lt=0.5,
        description="Share of a cohort, rounded up, that may collude with the server without "
        "learning more than the sum. With more colluders, fewer clients may drop out.",
    )
    confirm: bool = Field(
        True,
        description="Confirm the set of survivors before anything is opened. Without it a round "
        'takes one trip less, but the server must follow the protocol ("honest but curious").',
    )
    group_size: int | None = Field(
        None,
        ge=4,
        description="Open one sum for each group of at least this many clients, for strategies "
        "that compare updates. Every owner's policy must allow it (encryption.group_sums). "
        "Default: one sum over the whole cohort.",
    )
    name_spoilers: bool = Field(
        False,
        description="If an opened sum is refused because honest members cannot have made it, open the same "
        "updates again in disjoint groups, and leave out the group that spoiled it. The "
        "server then reads sums of as few clients as any sum may have. Every owner's policy must "
        "allow it (encryption.name_spoilers).",
    )
    clip: PositiveFloat | None = Field(
        None,
        description="Largest magnitude of an entry of an update; a larger update is scaled down, so no "
        "member can move a mean farther. Default: a multiple of the size that the job's optimizer, "
        "learning rate, steps and noise give an update; the plan shows it.",
    )
    deadline: PositiveFloat = Field(
        120.0,
        description="Seconds that the short trips (keys, confirmation, opening) wait for answers.",
    )
