"""`umbel client check`: is everything right that an owner takes part with?

Nothing is changed and nothing of the data is told but names of columns and counts. Each check stands
by itself: if one fails, the others are made all the same. What is asked of the server is what any
stranger could ask; it learns that somebody connected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..errors import UmbelError
from .data_checks import data
from .finding import Finding
from .folder_checks import account, agent, audit, budget, keys, policy, roster, settings
from .home import Home
from .machine_checks import device, disk, memory, software
from .place_checks import cache, witness
from .server_checks import server

Check = Callable[[Home], Iterator[Finding]]


def examine(home: Home) -> list[Finding]:
    """Make every check, in the order in which they are to be read.

    Raises ``ConsortiumError`` only if `home` is not an owner's folder at all.
    """
    if not home.settings_file.is_file():
        home = Home.open(home.path)
    checks: list[tuple[str, Check, str]] = [
        ("settings", settings, "Correct client.toml, or put the missing file back."),
        ("keys", keys, "Put the keys back, or make a new folder: umbel client init."),
        ("data", data, "Correct the file, or [data] in client.toml, and check again."),
        ("account", account, "Put account.json, split.key and the ledger back, all from the same copy."),
        ("policy", policy, "Correct policy.toml: the agent does not start without it."),
        ("budget", budget, "Put the ledger back; without it the agent takes part in no job."),
        ("audit log", audit, "Move audit*.jsonl and audit.witness to another folder; a new log begins."),
        ("agent", agent, ""),
        ("software", software, "Install Umbel again, with its dependencies."),
        ("device", device, "Install a PyTorch that fits the GPU's driver, or set resources.device."),
        ("disk", disk, ""),
        ("memory", memory, ""),
        ("server", server, "Ask the operator, and compare ca.crt with consortium.json."),
        ("roster", roster, "Remove it: the server sends it again, signed."),
        ("cache", cache, "Remove it: what it holds is computed again."),
        ("witness", witness, "Find out who made it, remove it, and look at the agent's log."),
    ]  # fmt: skip
    return [
        finding for name, check, remedy in checks for finding in _made(home, name, check, remedy)
    ]


def _made(home: Home, name: str, check: Check, remedy: str) -> Iterator[Finding]:
    """What a check finds; its failure is a finding as well."""
    try:
        yield from check(home)
    except (UmbelError, OSError) as error:
        yield Finding(name, "bad", str(error), remedy)
    except Exception as error:
        # Of an error nobody foresaw only the kind is told: its text may quote the data.
        yield Finding(name, "bad", f"could not be checked ({type(error).__name__})", remedy)
