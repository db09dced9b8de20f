"""What a test leaves changed for the next ones in its process is seen, whatever it is."""

import decimal
import locale
import logging
import os
import signal
import sys

import numpy as np
import pytest
import torch

from umbel.learning import progress

logging.getLogger("umbel.clock")  # one that is there before


def alarm():
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    return lambda: signal.signal(signal.SIGALRM, before)


def umask():
    before = os.umask(0o077)
    return lambda: os.umask(before)


def directory():
    before = os.getcwd()
    os.chdir("/")
    return lambda: os.chdir(before)


def decimals():
    before, decimal.getcontext().prec = decimal.getcontext().prec, 7
    return lambda: setattr(decimal.getcontext(), "prec", before)


def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    return lambda: torch.set_num_threads(before)


def gradients():
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(not before)
    return lambda: torch.set_grad_enabled(before)


def number_type():
    torch.set_default_dtype(torch.float64)
    return lambda: torch.set_default_dtype(torch.float32)


def denormals():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush them")
    return lambda: torch.set_flush_denormal(False)


def errors():
    before = np.seterr(over="raise")
    return lambda: np.seterr(**before)


def level():
    logger = logging.getLogger("umbel.clock")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    return lambda: logger.setLevel(before)


def handler():
    added = logging.NullHandler()
    logging.root.addHandler(added)
    return lambda: logging.root.removeHandler(added)


def path():
    sys.path.insert(0, "/nowhere")
    return lambda: sys.path.remove("/nowhere")


def set_variable():
    os.environ["UMBEL_LEFT"] = "here"
    return lambda: os.environ.pop("UMBEL_LEFT")


def removed_variable():
    before = os.environ.pop("UMBEL_CACHE")
    return lambda: os.environ.__setitem__("UMBEL_CACHE", before)


def listener():
    progress.listen(print)
    return lambda: progress.listen(None)


def language():
    before = locale.setlocale(locale.LC_ALL)
    locale.setlocale(locale.LC_ALL, "C" if before != "C" else "C.UTF-8")
    return lambda: locale.setlocale(locale.LC_ALL, before)


LEFT = {
    alarm: "handler of signal 14",
    umask: "umask",
    directory: "working directory",
    decimals: "digits of decimals",
    threads: "torch threads",
    gradients: "torch gradients",
    number_type: "torch default type",
    denormals: "numbers below the normal ones",
    errors: "numpy over",
    level: "logger umbel.clock",
    handler: "root logger",
    path: "sys.path",
    set_variable: "environment variable UMBEL_LEFT: 'nothing' before, 'here' after",
    removed_variable: "environment variable UMBEL_CACHE",
    listener: "umbel.learning.progress listener",
    language: "locale",
}


@pytest.mark.parametrize("leave", LEFT, ids=lambda leave: leave.__name__)
def test_what_is_left_is_named_and_nothing_else(leftovers, leave):
    before = leftovers.state()
    undo = leave()
    try:
        left = leftovers.changes(before, leftovers.state())
    finally:
        undo()
    [line] = left
    assert LEFT[leave] in line
    assert not leftovers.changes(before, leftovers.state())


@pytest.mark.parametrize("leave", [alarm, directory, set_variable, removed_variable])
def test_what_later_tests_would_trip_over_is_put_back(leftovers, leave):
    before = leftovers.state()
    leave()
    leftovers.put_back(before)
    assert not leftovers.changes(before, leftovers.state())


@pytest.fixture
def shared(_learners):
    """What a test gets of learners, and what the next one gets."""
    return _learners.for_a_test(), _learners.for_a_test()


def test_a_learner_that_tests_share_is_as_it_was_loaded_for_each_of_them(shared, job_of):
    this, following = shared
    learner = this(job_of(model={"adapter": "full"}))
    network = learner.network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    was_training = [module.training for module in network.modules()]
    with torch.no_grad():
        for _, tensor in network.trained_parameters():
            tensor.add_(1.0)
            tensor.requires_grad_(False)
    network.train(not network.training)
    assert this(learner.job) is learner
    assert not any(tensor.requires_grad for _, tensor in network.trained_parameters())
    assert following(learner.job) is learner
    after = network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(tensor.requires_grad for _, tensor in network.trained_parameters())
    assert [module.training for module in network.modules()] == was_training
