"""`umbel client check`: is everything right with which an owner takes part?

Nothing is changed and nothing of the data is told but names of columns and counts. Each check stands
by itself: where one fails, the others are made all the same. What is asked of the server is what any
stranger could ask; it learns that somebody connected.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import UmbelError
from ..foreign import typed
from ..storage.processes import held
from .connection_probe import Server, Unusable, clock
from .echo import missing
from .finding import Finding, Level
from .home import Home
from .places import cache, witness
from .policy import Policy

_GIB = 2**30
_FLEET, _CONTROL = "/v1/fleet/activate-node", "/v1/control/list-runs"
_MOST_COLUMNS, _LONGEST_COLUMN = 20, 40


def examine(home: Home) -> list[Finding]:
    """Make every check, in the order in which they are to be read.

    Raises ``ConsortiumError`` only where `home` is no owner's folder at all.
    """
    if not home.settings_file.is_file():
        home = Home.open(home.path)
    it = _Examination(home)
    checks: list[tuple[str, Callable[[], Iterator[Finding]], str]] = [
        ("settings", it.settings, "Correct client.toml, or put the missing file back."),
        ("keys", it.keys, "Put the keys back, or make a new folder: umbel client init."),
        ("data", it.data, "Correct the file, or [data] in client.toml, and check again."),
        ("account", it.account, "Put account.json, split.key and the ledger back, all from the same copy."),
        ("policy", it.policy, "Correct policy.toml: the agent does not start without it."),
        ("budget", it.budget, "Put the ledger back; without it the agent takes part in no job."),
        ("audit log", it.audit, "Move audit*.jsonl and audit.witness to another folder; a new log begins."),
        ("agent", it.agent, ""),
        ("software", it.software, "Install Umbel again, with its dependencies."),
        ("device", it.device, "Install a PyTorch that fits the GPU's driver, or set resources.device."),
        ("disk", it.disk, ""),
        ("memory", it.memory, ""),
        ("server", it.server, "Ask the operator, and compare ca.crt with consortium.json."),
        ("roster", it.roster, "Remove it: the server sends it again, signed."),
        ("cache", lambda: cache(home), "Remove it: what it holds is computed again."),
        ("witness", lambda: witness(home), "Find out who made it, remove it, and look at the agent's log."),
    ]  # fmt: skip
    return [finding for name, check, remedy in checks for finding in _made(name, check, remedy)]


def _made(name: str, check: Callable[[], Iterator[Finding]], remedy: str) -> Iterator[Finding]:
    """What a check finds; its failure is a finding as well."""
    try:
        yield from check()
    except (UmbelError, OSError) as error:
        yield Finding(name, "bad", str(error), remedy)
    except Exception as error:
        # Of an error nobody foresaw only the kind is told: its text may quote the data.
        yield Finding(name, "bad", f"could not be checked ({type(error).__name__})", remedy)


class _Examination:
    """The checks of one folder."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def settings(self) -> Iterator[Finding]:
        home = Home.open(self.home.path)
        yield Finding("settings", "ok", f"{home.name}, which takes part at {home.address}")
        if not home.ca_certificate.read_bytes().startswith(home.card.ca_certificate.encode()):
            yield Finding(
                "settings", "bad", "ca.crt is not the authority that consortium.json names",
                "Put back the file that this folder was made with.",
            )  # fmt: skip
        text = f"{home.card.name}, fingerprint {home.card.fingerprint}"
        yield Finding("consortium", "ok", text)

    def keys(self) -> Iterator[Finding]:
        from cryptography.hazmat.primitives.serialization import load_ssh_private_key

        from ..consortium.card import public_pem

        home, well = self.home, True
        for part in (home.path, home.identity, home.node_key):
            open_to_others = stat.S_IMODE(part.stat().st_mode) & 0o077
            if open_to_others:
                well = False
                text = f"{part} is open to other users of this machine"
                if part.is_dir():
                    yield Finding("keys", "warning", text, f"chmod 700 {part}")
                else:
                    remedy = f"chmod 600 {part}; if others may have read it, make new keys."
                    yield Finding("keys", "bad", text, remedy)
        try:
            node = public_pem(load_ssh_private_key(home.node_key.read_bytes(), None).public_key())
            fingerprint = home.request.fingerprint
        except (UmbelError, OSError):
            raise
        except Exception:
            yield Finding(
                "keys", "bad", f"{home.identity} or {home.node_key} is damaged",
                "Make a new folder with umbel client init, and send its request to the operator.",
            )  # fmt: skip
            return
        if node != home.request.node_key:
            yield Finding(
                "keys", "bad", f"{home.node_public_key} is not the public half of {home.node_key}",
                "Put back the file that this folder was made with.",
            )  # fmt: skip
            well = False
        if well:
            yield Finding("keys", "ok", "present, and only this user can read them")
        yield Finding("request", "ok", f"fingerprint to give to the operator: {fingerprint}")

    def data(self) -> Iterator[Finding]:
        from ..learning.reading.columns import check_columns
        from ..learning.reading.header import column_names
        from ..learning.reading.signatures import refuse_other_kinds
        from ..learning.reading.tables import find_layout

        home, given = self.home, self.home.settings.data
        for path in (home.data, home.test_data):
            if path is None:
                continue
            refuse_other_kinds(path)
            written = find_layout(path, given.layout)
            if written != given.layout:
                yield Finding(
                    "data", "warning", f"{path} seems to be written as {written}, but client.toml "
                        f"declares {given.layout}",
                    "Records that cannot be read that way are left out. Set it in client.toml: "
                    f"{written.toml}",
                )  # fmt: skip
            columns = [given.text_column, given.label_column]
            if path == home.data:
                columns.append(given.group_column)
            wanted = [name for name in columns if name is not None]
            found = column_names(path, given.layout, wanted)
            yield Finding("data", "ok", f"{path} has the columns {_columns(found)}")
            check_columns(str(path), wanted, found)
        yield from self._records()

    def _records(self) -> Iterator[Finding]:
        """The records as the agent would take them."""
        import numpy as np

        source, declared = self.home.source, self.home.settings.data
        corpus = source.corpus()
        left_out = "".join(f", {count} left out ({why})" for why, count in corpus.dropped.items())
        labels = declared.labels or []
        yield Finding(
            "data", "warning" if left_out or not len(corpus) else "ok",
            f"{len(corpus)} records{f' in {len(labels)} classes' if labels else ''}{left_out}",
            "Nobody else learns what is left out. Fill the empty fields, add missing classes to "
            "client.toml, or leave it as it is." if left_out else "",
        )  # fmt: skip
        if deadly := len(source.left_out):
            yield Finding(
                "data", "warning", f"{deadly} records are left out: each of them killed the worker",
                f"The agent's log says which ones. To try them again, delete {source.left_out.file}.",
            )  # fmt: skip
        held = np.bincount(
            corpus.labels if corpus.labels is not None else [], minlength=len(labels)
        )
        if empty := [name for name, count in zip(labels, held, strict=False) if not count]:
            yield Finding(
                "data", "warning", f"no record has the class {', '.join(map(repr, empty))}",
                "Check labels and label_column in client.toml, unless this is correct.",
            )  # fmt: skip

    def account(self) -> Iterator[Finding]:
        account = self.home.account
        sizes = account.sizes
        account.check_place(self.home.ledger, settle=False)
        if missing(self.home.behind):
            yield Finding(
                "account", "bad", "the ledger lacks rows that this owner has reported to the "
                    "server: it is an older copy",
                "Put back the newest copy of ledger and witness. If there is none, and no other copy of "
                f"the folder spends: umbel client moved {typed(self.home.path)}",
            )  # fmt: skip
            return
        text = "no size has been published yet"
        if sizes is not None:
            text = f"published size: {sizes.data:,}"
            if sizes.held_out is not None:
                text += f", of the held-out file {sizes.held_out:,}"
        yield Finding("account", "ok", f"{account.name[:12]}, {text}")

    def policy(self) -> Iterator[Finding]:
        laxer = list(_laxer(Policy.read(self.home.policy)))
        if laxer:
            yield Finding(
                "policy", "warning", f"less strict than the default: {'; '.join(laxer)}",
                f"Change it back in {self.home.policy}, unless you decided so.",
            )  # fmt: skip
        else:
            yield Finding("policy", "ok", "valid, and at least as strict as the default")

    def budget(self) -> Iterator[Finding]:
        from ..privacy.ledger.ledger import Ledger
        from .spending import spending

        if not Ledger.begun(self.home.ledger):
            yield Finding("budget", "ok", "there is no ledger yet: nothing has been spent")
            return
        policy = Policy()
        with contextlib.suppress(UmbelError):
            policy = Policy.read(self.home.policy)
        items, account = spending(self.home.ledger, policy), self.home.account.name
        yield Finding("budget", "ok", f"the ledger verifies; accounts in it: {len(items)}")
        for item in items:
            if item.dataset != account:
                continue
            # Rounded down: never more than there is.
            left = int(item.left * 100) / 100
            text = (
                f"of this data epsilon {left:.2f} of {item.limit:g} is left at delta {item.delta:g}"
            )
            if left > 0:
                yield Finding("budget", "ok", text)
            else:
                remedy = (
                    "Jobs with privacy are refused from now on; what is spent never comes back."
                )
                yield Finding("budget", "warning", text, remedy)

    def audit(self) -> Iterator[Finding]:
        from .audit_log import AuditLog

        yield Finding("audit log", "ok", f"verifies; lines: {AuditLog(self.home.audit).verify()}")

    def agent(self) -> Iterator[Finding]:
        text = "no agent runs for this owner now"
        if held(self.home.path / "lock"):
            text = "an agent runs for this owner"
        yield Finding("agent", "ok", text)

    def software(self) -> Iterator[Finding]:
        from importlib.metadata import PackageNotFoundError, version

        found = [f"Python {platform.python_version()}"]
        for name in ("umbel", "torch", "transformers", "flwr"):
            try:
                found.append(f"{name} {version(name)}")
            except PackageNotFoundError:
                yield Finding("software", "bad", f"{name} is not installed", f"Install {name}.")
        yield Finding("software", "ok", ", ".join(found))

    def device(self) -> Iterator[Finding]:
        wanted = "auto"
        with contextlib.suppress(UmbelError):
            wanted = Policy.read(self.home.policy).resources.device
        if wanted == "cpu":
            yield Finding("device", "ok", "the CPU, as policy.toml requires (resources.device)")
            return
        import torch

        if wanted != "mps" and torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            text = (
                f"{torch.cuda.get_device_name()}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
            )
            yield Finding("device", "ok", text)
        elif wanted != "cuda" and torch.backends.mps.is_available():
            yield Finding("device", "ok", "the GPU of this Mac (mps)")
        elif wanted == "auto":
            yield Finding("device", "ok", "no GPU: training uses the CPU")
        else:
            yield Finding(
                "device", "warning", f'policy.toml wants "{wanted}", but PyTorch finds no such GPU',
                'Repair the driver, or set resources.device to "auto": jobs cannot run like this.',
            )  # fmt: skip

    def disk(self) -> Iterator[Finding]:
        free = shutil.disk_usage(self.home.path).free
        level: Level = "ok" if free >= 2 * _GIB else "warning"
        remedy = (
            ""
            if level == "ok"
            else "Free some space: without it neither ledger nor journal can be written."
        )
        yield Finding("disk", level, f"{free / _GIB:.1f} GiB free at {self.home.path}", remedy)

    def memory(self) -> Iterator[Finding]:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        text = f"{total / _GIB:.1f} GiB"
        with contextlib.suppress(OSError, ValueError):
            # Linux alone tells what could be had without swapping.
            fields = dict(
                line.split(":") for line in Path("/proc/meminfo").read_text().splitlines()
            )
            text += f", of which {int(fields['MemAvailable'].split()[0]) / 2**20:.1f} are available"
        yield Finding("memory", "ok", text)

    def server(self) -> Iterator[Finding]:
        name, _, digits = self.home.address.rpartition(":")
        proxy = self.home.settings.server.proxy
        server = Server(name.strip("[]"), int(digits), self.home.ca_certificate, proxy)
        try:
            days = server.days_left()
            fleet, control = server.ask(_FLEET), server.ask(_CONTROL)
        except Unusable as error:
            yield Finding("server", "bad", str(error), error.remedy)
            yield Finding("clock", "warning", "not compared, because the server did not answer",
                          "Make sure that NTP sets this machine's clock.")  # fmt: skip
            return
        yield Finding(
            "certificate", "ok" if days >= 30 else "warning", f"valid, days left: {days}",
            "" if days >= 30 else "Remind the operator to renew it: umbel consortium renew.",
        )  # fmt: skip
        if fleet.status == 404 or fleet.status >= 500:
            yield Finding(
                "server", "warning", f"{self.home.address} answers with status {fleet.status}",
                "Ask the operator whether umbel server runs behind this address.",
            )  # fmt: skip
        else:
            yield Finding("server", "ok", f"{self.home.address} answers")
        yield clock(fleet)
        if control.status == 404:
            yield Finding("control API", "ok", "is not open to the network")
        else:
            yield Finding(
                "control API", "warning",
                f"{self.home.address} answers requests to control it (status {control.status})",
                "Tell the operator: only umbel server's own public port belongs on the network.",
            )  # fmt: skip

    def roster(self) -> Iterator[Finding]:
        from ..errors import ProtocolError
        from ..privacy.secagg.keys import Identity
        from ..privacy.secagg.roster import SignedRoster, open_kept
        from ..privacy.secagg.signed import FOREVER, day

        home = self.home
        if not home.roster.exists():
            yield Finding(
                "roster", "warning", "not admitted yet (or the server has not sent a roster)",
                f"Send {home.request_file} to the operator, and read out its fingerprint; the "
                "roster comes with the first job.",
            )  # fmt: skip
            return
        roster = open_kept(home.roster.read_bytes(), home.membership.keys)
        where = f"epoch {roster.epoch}, with {len(roster.members)} members"
        try:
            admitted = roster.identity(home.name)
        except ProtocolError:
            yield Finding("roster", "bad", f"{where}, does not name {home.name}",
                          "Ask the operator to admit this owner again.")  # fmt: skip
            return
        ends = SignedRoster.from_bytes(home.roster.read_bytes()).expires
        if admitted == Identity(home.identity.read_bytes()).public:
            until = f"; holds until {day(ends)}" if ends < FOREVER else ""
            yield Finding("roster", "ok", f"{home.name} is a member: {where}{until}")
        else:
            yield Finding(
                "roster", "warning", f"{where}, names {home.name} with other keys",
                "After umbel client rotate --finish the next job corrects this; otherwise ask the operator "
                "which keys it admitted under this name.",
            )  # fmt: skip


def _laxer(policy: Policy) -> Iterator[str]:
    """Where a policy permits more than the default, key by key."""
    default = Policy()
    numbers = ("epsilon_limit", "epsilon_per_job", "delta_limit")
    for section, rules in policy:
        for key, value in rules:
            usual = getattr(getattr(default, section), key)
            bounded = key in numbers or key.startswith("max_")
            more = (bounded and value > usual) or (usual is True and value is False)
            if more or (key == "units" and not set(value) <= {*usual, "group"}):
                yield f"{section}.{key} = {_toml(value)} (default {_toml(usual)})"


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _columns(names: list[str]) -> str:
    """Names of columns; a file without a header has a record there, so they are cut."""
    shown = ", ".join(repr(name[:_LONGEST_COLUMN]) for name in names[:_MOST_COLUMNS])
    more = len(names) - _MOST_COLUMNS
    return f"{shown} and {more} more" if more > 0 else shown
