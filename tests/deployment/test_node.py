"""The process that carries an owner's messages lives whole or not at all."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("ends", "code"), [("raise ValueError('refused')", 1), ("pass", 0)])
def test_a_thread_that_fails_ends_the_process(ends, code):
    program = (
        "import threading\n"
        "from umbel.flower.node import end_with_any_thread\n"
        "end_with_any_thread()\n"
        f"def beat():\n    {ends}\n"
        "thread = threading.Thread(target=beat)\n"
        "thread.start()\nthread.join()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == code
    assert ("refused" in done.stderr) == bool(code)
