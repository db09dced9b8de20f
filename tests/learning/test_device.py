"""What a process asks of its processor."""

import pytest

COUNT = """
import torch
from umbel.learning.device import flush_denormals

torch.set_num_threads(4)
few = torch.full((8,), 1e-40)
before = int((few * 1.5).count_nonzero())
if {early}:
    flush_denormals()
many = torch.full((1 << 18,), 1e-40)
flush_denormals()
print(before, int((many * 1.5).count_nonzero()), int((few * 1.5).count_nonzero()))
"""


@pytest.mark.parametrize(("early", "all_of_them"), [(True, True), (False, False)])
def test_numbers_that_take_long_are_zero_in_every_thread_if_asked_before_there_are_any(
    early, all_of_them, python
):
    """Where it is asked for later, threads that are there go on with them."""
    said, _ = python(COUNT.format(early=early)).communicate(timeout=120)
    before, many, few = map(int, said.split())
    if before == 8 and few == 8:
        pytest.skip("this processor cannot flush them")
    assert few == 0
    assert (many == 0) == all_of_them
