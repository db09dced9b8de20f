"""A whole slot, from prekeys to the opened sum."""

from __future__ import annotations

import numpy as np
import pytest

from umbel.privacy.secagg.roster import Limits


def test_the_sum_of_a_cohort_is_opened_bit_for_bit(cohort):
    total = cohort(size=4).sum()
    assert total.members == 4
    assert total.integers == [0 + 1 + 2 + 3, 4]
    assert total.wides == [1.5 * 6]


@pytest.mark.parametrize("size", [3, 4, 10, 30])
@pytest.mark.parametrize("confirm", [True, False])
def test_slots_follow_each_other_with_the_next_prekeys_on_the_reveal(size, confirm, cohort):
    members = cohort(size=size, limits=Limits(colluders=0.0, confirm=confirm))
    server = members.open_slot(1)
    members.send_prekeys(server)
    for number in range(1, 4):
        members.close_prekeys(server)
        members.upload_all(server)
        if confirm:
            members.confirm_all(server)
        following = members.open_slot(number + 1)
        prekeys = members.reveal_all(server, following=following.prekey_request)
        server.open()
        assert np.array_equal(server._sum, members.expected(server))
        server = following
        for name, prekey in prekeys.items():
            server.add_prekey(name, prekey)


@pytest.mark.parametrize("stage", ["prekey", "upload", "confirm", "reveal"])
def test_a_member_may_drop_out_at_every_stage(stage, cohort):
    members = cohort(size=6)
    gone = ["m0003", "m0005"]

    def at(this: str) -> list[str]:
        return gone if this == stage else []

    server = members.open_slot()
    members.send_prekeys(server, at("prekey"))
    members.close_prekeys(server)
    members.upload_all(server, at("upload"))
    members.confirm_all(server, at("confirm"))
    members.reveal_all(server, at("reveal"))
    total = server.open()
    assert np.array_equal(server._sum, members.expected(server))
    assert total.members == (4 if stage in ("prekey", "upload") else 6)


@pytest.mark.slow
def test_above_a_hundred_members_a_few_neighbours_are_enough(cohort):
    members = cohort(size=104)
    server = members.open_slot()
    assert server.needs_nonces
    assert server._numbers.degree < 60
    members.send_prekeys(server)
    members.close_prekeys(server)
    members.upload_all(server, members.names[3:9])
    members.confirm_all(server)
    members.reveal_all(server, members.names[20:26])
    assert server.open().members == 98
    assert np.array_equal(server._sum, members.expected(server))
