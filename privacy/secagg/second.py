"""A second sum of a round, of what the very updates of the first one come to under one public question.

A strategy may need two sums (``strategies.products``): of the first one the server learns what to ask, and
each member answers from the update that it has kept.

Guarantee. Let a member have masked a kept content in the slots s_1, ..., s_k, and confirmed the survivors S
of s_k. It masks an answer for a second sum only in a slot whose cohort is S; that slot is summed whole or not
at all (``State.whole``); and the first question binds, on the disk before anything is computed of it, so that
a member which refuses for what it holds is asked nothing else. From then on the content enters no first sum
again. Weights count as in the first sum, to the last bit. So of one content at most one first sum and answers
to one question are ever opened, both over S: no difference of sums is of fewer members than S.

Why. Whoever answers in the second slot has itself confirmed exactly its cohort in s_k, so all honest members
of it agree on S, and no other set of s_k can be opened (``counted``: two quorums share an honest member).
The slots before s_k can never be opened (``repeats``). Without the confirmation trip nothing fixes S, so
there is no second sum.

An answer to the same question may be masked again, in another slot of the same cohort: whatever is opened,
it is the same sum, up to how it was rounded to the grid.

Assumptions: those of the package. What a question can bring to light of the sum is the strategy's to bound:
here it is known by its digest alone. A content that is made anew is another one: without privacy training
is determined, and an update that is trained again is the same numbers in another sum.
"""

from __future__ import annotations

from dataclasses import replace

from ...errors import ProtocolError
from .messages import UploadRequest
from .roster import Roster
from .state import Second, State

SERVER = "the server"


def check_second(
    roster: Roster, state: State, asked: UploadRequest, what: bytes, question: bytes
) -> None:
    """Refuse (``ProtocolError``, rule "second") to answer `question`, a digest, by what is kept of `what`."""
    if not state.kept or state.kept[0].what != what or not state.kept[0].slots:
        raise _refuse("this member has sent nothing of what this request asks for")
    kept, slot, manifest = state.kept[0], asked.manifest.slot, asked.manifest
    first = kept.slots[-1]
    if not roster.limits.confirm or first.roster != slot.roster:
        raise _refuse("it takes the same roster, and confirmed survivors")
    if kept.named:
        raise _refuse("its update was masked to name a group")
    if not kept.summed:
        raise _refuse(f"this member has confirmed no survivors of slot {first.number}")
    if manifest.weight_cap != kept.weight_cap:
        raise _refuse("weights count otherwise than in the first sum")
    if slot.cohort != kept.summed or manifest.members != kept.summed:
        raise _refuse(f"its cohort is not exactly the survivors of slot {first.number}")
    if kept.second and kept.second[0].asked != question:
        raise _refuse("another second question was answered in this round")


def bound(
    roster: Roster, state: State, asked: UploadRequest, what: bytes, question: bytes
) -> State:
    """The state of a member that is to answer `question` in the slot of `asked`, and no other from then on.

    Refused as by ``check_second``.
    """
    check_second(roster, state, asked, what, question)
    kept = replace(state.kept[0], second=(Second(question, asked.manifest.slot),))
    return replace(state, kept=(kept,))


def _refuse(text: str) -> ProtocolError:
    return ProtocolError("second", SERVER, text)
