"""What a process keeps from one test to the next, and what a test left changed in it.

Tests share their process, in an order that changes with the number of processes. A test whose result hangs
on what ran before would pass alone and fail in a crowd, or the other way round.
"""

import decimal
import locale
import logging
import os
import signal
import socket
import sys
import time

_SIGNALS = [
    getattr(signal, name)
    for name in (
        *("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGPIPE", "SIGCHLD", "SIGALRM", "SIGPROF"),
        *("SIGUSR1", "SIGUSR2", "SIGXFSZ", "SIGXCPU", "SIGTSTP", "SIGCONT", "SIGWINCH", "SIGIO"),
    )
    if hasattr(signal, name)
]
_OURS = {"PYTEST_CURRENT_TEST"}
"""Environment variables that change from test to test."""
_TELLING = ("UMBEL", "HF_", "HUGGINGFACE", "XDG_", "PYTHON", "OMP_", "LC_", "LANG")
"""How variables begin that decide what we do. A library may set one of its own when it is imported, which
hangs on nothing but the import; those that were there before are all watched."""
_NOTHING = "nothing"


def state():
    """By kind, how everything stands now. It only reads, in a fraction of a millisecond."""
    return {
        "environment variable": {k: v for k, v in os.environ.items() if k not in _OURS},
        "handler of signal": {int(n): signal.getsignal(n) for n in _SIGNALS},
        "logger": {
            name: (logger.level, logger.disabled, logger.filters[:], _handlers(logger))
            for name, logger in logging.root.manager.loggerDict.items()
            if isinstance(logger, logging.Logger) and name.startswith("umbel")
        },
        "this process's": {
            "working directory": _directory(),
            "umask": _umask(),
            "locale": locale.setlocale(locale.LC_ALL),
            "time zone": time.tzname,
            "sys.path": tuple(sys.path),
            "sys.argv": tuple(sys.argv),
            "timeout of sockets": socket.getdefaulttimeout(),
            "digits of decimals": decimal.getcontext().prec,
            "disabled level of logging": logging.root.manager.disable,
            "root logger": (logging.root.level, _handlers(logging.root)),
            # A processor that flushes them counts them as zero in all arithmetic of this thread.
            "numbers below the normal ones": sys.float_info.min / 2 != 0,
        },
    } | {name: read(sys.modules[name]) for name, read in _LIBRARIES.items() if _usable(name)}


def changes(before, after):
    """A line for each thing that stood otherwise before. What an import brought along is none."""
    lines = []
    for kind, was in before.items():
        now = after.get(kind, was)
        if now == was:
            continue
        names = was.keys() & now.keys()  # a logger that is new came with an import
        if kind == "environment variable":
            names = was.keys() | {name for name in now if name.startswith(_TELLING)}
        lines += [
            f"{kind} {name}: {was.get(name, _NOTHING)!r} before, {now.get(name, _NOTHING)!r} after"
            for name in sorted(names, key=str)
            if was.get(name, _NOTHING) != now.get(name, _NOTHING)
        ]
    return lines


def put_back(before):
    """What later tests would trip over most: environment, directory, signals."""
    wanted = before["environment variable"]
    for name in os.environ.keys() - wanted.keys() - _OURS:
        del os.environ[name]
    os.environ.update(wanted)
    if before["this process's"]["working directory"]:
        os.chdir(before["this process's"]["working directory"])
    for number, handler in before["handler of signal"].items():
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _handlers(logger):
    """Without those of pytest, which come and go with each phase of a test."""
    return [h for h in logger.handlers if not type(h).__module__.startswith("_pytest")]


def _directory():
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was removed
        return None


def _umask():
    """As the kernel tells it: Python could only set it, and other threads would notice."""
    try:
        with open("/proc/self/status") as file:
            return next((line for line in file if line.startswith("Umask:")), None)
    except OSError:
        return None


def _torch(torch):
    return {
        "threads": torch.get_num_threads(),
        "default type": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "precision of products": torch.get_float32_matmul_precision(),
    }


_LIBRARIES = {
    "torch": _torch,
    "numpy": lambda numpy: numpy.geterr(),
    "matplotlib.pyplot": lambda pyplot: {"open figures": pyplot.get_fignums()},
    "umbel.learning.progress": lambda progress: {"listener": progress._heard},
}


def _usable(name):
    """Whether it is imported, and not in the middle of that."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)
