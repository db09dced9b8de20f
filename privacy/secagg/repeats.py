"""When the same content may be masked again: in a slot after others that can never be opened.

A round is repeated after a crash, or when too few answered. Who trains again releases a second noised
update and pays for it. Who masks the first one again releases nothing new, if no sum with it was or
will be opened. A server that could choose would open two sums that differ in one member.

Guarantee. Let a content be masked in slots s_1, s_2, ... of one run. If ``check_repeat`` allowed each
but the first, at most one of their sums is ever opened, short of breaking what ``secagg`` assumes.

Why. Let s be an earlier slot of n members, with at most n_C colluders, and t its quorum. A statement in
a signed prekey of the present slot says that its member has left s and revealed nothing in it. Of L
statements at most n_C are lies; each other member is honest, and will never answer about s again, for
slots only count upwards and the journal was on the disk before the statement left. So at most
n - L + n_C members can ever give a share of anybody's secret in s. With L >= n - t + 1 + n_C these are
fewer than t: no seed b of s can be reconstructed, this member's vector in s stays under PRG(b), and it is
uniform to the server whatever else it learns (Shamir's scheme hides perfectly below its threshold).

Above ``parameters.COMPLETE`` members shares lie with neighbours, and few shares are enough. There
statements about *confirming* count: fewer than t members can ever confirm the same survivors, so no
honest member of s ever reveals, and among neighbours colluders alone are too few. Without the
confirmation trip a circle allows no repeat.

Also demanded: the roster is the same (its limits are what n_C and t come from), and everybody in the
present cohort was in each earlier one. So a content never meets strangers: in a group that was dealt
again it is not masked again. Statements of others than the earlier slot's members do not count.

Assumptions: those of the package; journals are not rolled back together with their witnesses. A member
that lost its journal states nothing of slots before, and the key of its kept content is lost with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ...errors import ProtocolError
from .keys import hash_of
from .messages import Manifest, Naming, Prekey, PrekeyRequest, Slot, UploadRequest
from .parameters import Thresholds, smallest_sum, thresholds
from .roster import Roster
from .state import MOST_REPEATS, Kept, State

SERVER = "the server"


class _Silence(NamedTuple):
    """From which slot on a member states that it kept silent."""

    revealing: int
    confirming: int


def statements_needed(numbers: Thresholds) -> int:
    """n - t + 1 + n_C: so many statements, n_C of them lies, leave fewer than t members."""
    return numbers.members - numbers.quorum + 1 + numbers.colluders


def check_repeat(
    name: str, roster: Roster, state: State, asked: UploadRequest, what: bytes
) -> None:
    """Refuse (``ProtocolError``, rule "repeat") to mask the kept content of `what` in this slot."""
    if not state.kept or state.kept[0].what != what:
        raise _refuse("this member has kept nothing of what this request asks for")
    if state.kept[0].named:
        raise _refuse("it was masked to name a group, so it may not enter another sum")
    if state.kept[0].second:
        raise _refuse(
            "it was in the second sum of its round, so it may not enter another first one"
        )
    earlier = state.kept[0].slots
    if len(earlier) >= MOST_REPEATS:
        raise _refuse(f"the same content was masked in {len(earlier)} slots, which is the most")
    if earlier:
        stated = _statements(name, roster, state, asked)
        for slot in earlier:
            _check_closed(roster, slot, asked.manifest.slot, stated)


def masked_in(kept: Kept, manifest: Manifest, *, named: bool) -> Kept:
    """What is kept, once it is masked under this manifest; `named`: to name a group."""
    slots, cap = (*kept.slots, manifest.slot), manifest.weight_cap
    return replace(kept, slots=slots, summed=(), named=named, weight_cap=cap)


def with_naming(state: State, asked: PrekeyRequest) -> State:
    """The state of a member that signs for a partition of the sum that its content is in.

    Refuses another partition than the one it signed for before, and of another sum.
    """
    if not asked.naming:
        return state
    if not state.kept or not state.kept[0].slots:
        raise _refuse("no sum was opened that groups could be made of")
    kept, [naming] = state.kept[0], asked.naming
    if kept.naming not in ((), asked.naming):
        raise _refuse("this member signed for other groups before")
    if not kept.naming and naming.slot != kept.slots[-1].digest():
        raise _refuse("these are groups of another sum")
    return replace(state, kept=(replace(kept, naming=asked.naming),))


def check_naming(
    name: str,
    roster: Roster,
    state: State,
    asked: UploadRequest,
    what: bytes,
    groups: Sequence[Sequence[str]],
) -> None:
    """Refuse to mask the kept content in a group that is to show whether it spoiled the sum.

    Here the first sum *was* opened. What the server learns beyond it are the sums of `groups`, and of
    no set that is not made of whole groups: they are disjoint and together the members of that sum;
    each holds as many as any sum that the roster ever lets a server open, and is opened whole or not
    at all (``State.whole``); a content goes into one such group and no sum after it; and a quorum of
    the sum's cohort signed for this partition. No honest member signs for two, so there is none
    beside it.
    """
    if not state.kept or state.kept[0].what != what or not state.kept[0].slots:
        raise _refuse("nothing of what this request asks for was in a sum")
    kept, slot, limits = state.kept[0], asked.manifest.slot, roster.limits
    earlier, consortium = kept.slots[-1], len(roster.members)
    if kept.named or kept.second:
        raise _refuse("it was masked to name a group before, or for a second sum")
    if not limits.confirm or earlier.roster != slot.roster:
        raise _refuse("a group is named under the same roster, and only with confirmed survivors")
    everybody = sorted(each for group in groups for each in group)
    if not kept.summed or everybody != list(kept.summed):
        raise _refuse("the groups do not divide the members of the sum, each into one group")
    least = smallest_sum(consortium, limits)
    if len(groups) < 2 or min(map(len, groups)) < least:
        raise _refuse(f"there must be two groups or more, each with at least {least} members")
    if list(slot.cohort) not in [sorted(group) for group in groups]:
        raise _refuse("the cohort is not one of the groups")
    naming = Naming(earlier.digest(), digest_of_groups(groups))
    if kept.naming != (naming,):
        raise _refuse("this member did not sign for these groups")
    signed = {name}
    for one in (*asked.prekeys, *asked.others):
        prekey = one.open(Prekey, roster)
        if prekey.naming == (naming,) and prekey.sender in earlier.cohort:
            signed.add(prekey.sender)
    numbers = thresholds(len(earlier.cohort), limits.colluders, limits.confirm, consortium)
    if len(signed) < numbers.quorum:
        raise _refuse(
            f"{len(signed)} members signed for these groups, but {numbers.quorum} are needed, so "
            "that no other groups can exist"
        )


def digest_of_groups(groups: Sequence[Sequence[str]]) -> bytes:
    """Of who is in which group, in whatever order they come."""
    names = [[name.encode() for name in sorted(group)] for group in groups]
    return hash_of(*sorted(hash_of(*group) for group in names))


def _check_closed(
    roster: Roster, earlier: Slot, present: Slot, stated: Mapping[str, _Silence]
) -> None:
    if earlier.roster != present.roster:
        raise _refuse("it was masked under another roster")
    strangers = set(present.cohort) - set(earlier.cohort)
    if strangers:
        raise _refuse(
            f"{min(strangers)} was not in slot {earlier.number}, in which this content was masked"
        )
    limits, consortium = roster.limits, len(roster.members)
    numbers = thresholds(len(earlier.cohort), limits.colluders, limits.confirm, consortium)
    if numbers.circle and not limits.confirm:
        raise _refuse("without confirmations a large cohort's sum can be opened late")
    count = sum(
        (stated[name].confirming if numbers.circle else stated[name].revealing) <= earlier.number
        for name in earlier.cohort
        if name in stated
    )
    needed = statements_needed(numbers)
    if count < needed:
        did = "confirmed" if numbers.circle else "revealed"
        raise _refuse(
            f"{count} members state that they {did} nothing in slot {earlier.number}; but {needed} "
            "are needed, so that its sum can no longer be opened"
        )


def _statements(
    name: str, roster: Roster, state: State, asked: UploadRequest
) -> dict[str, _Silence]:
    """What the members of the present slot state of those before, `name` itself among them.

    Each statement is in a signed prekey that is in the manifest, so it is of this slot and no other.
    """
    manifest = asked.manifest
    digests = dict(zip(manifest.members, manifest.prekeys, strict=True))
    slot, found = manifest.slot.digest(), {name: _Silence(state.unrevealed, state.unconfirmed)}
    for signed in (*asked.prekeys, *asked.others):
        prekey = signed.open(Prekey, roster)
        digest = hashlib.sha256(signed.body).digest()
        if prekey.slot != slot or digests.get(prekey.sender) != digest:
            raise ProtocolError("repeat", prekey.sender, "its statement is for another slot")
        found[prekey.sender] = _Silence(prekey.unrevealed, prekey.unconfirmed)
    return found


def _refuse(text: str) -> ProtocolError:
    return ProtocolError("repeat", SERVER, text)
