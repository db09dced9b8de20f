"""Whether what lies in an owner's folder is whole and fits together: keys, account, policy, ledger."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from typing import Any

from ..errors import UmbelError
from ..foreign import typed
from ..storage.processes import held
from .echo import missing
from .finding import Finding
from .home import Home
from .policy import Policy


def settings(home: Home) -> Iterator[Finding]:
    home = Home.open(home.path)
    yield Finding("settings", "ok", f"{home.name}, which takes part at {home.address}")
    if not home.ca_certificate.read_bytes().startswith(home.card.ca_certificate.encode()):
        yield Finding(
            "settings", "bad", "ca.crt is not the authority that consortium.json names",
            "Put back the file that this folder was made with.",
        )  # fmt: skip
    text = f"{home.card.name}, fingerprint {home.card.fingerprint}"
    yield Finding("consortium", "ok", text)


def keys(home: Home) -> Iterator[Finding]:
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    from ..consortium.card import public_pem

    well = True
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


def account(home: Home) -> Iterator[Finding]:
    sizes = home.account.sizes
    home.account.check_place(home.ledger, settle=False)
    if missing(home.behind):
        yield Finding(
            "account", "bad", "the ledger lacks rows that this owner has reported to the "
                "server: it is an older copy",
            "Put back the newest copy of ledger and witness. If there is none, and no other copy of "
            f"the folder spends: umbel client moved {typed(home.path)}",
        )  # fmt: skip
        return
    text = "no size has been published yet"
    if sizes is not None:
        text = f"published size: {sizes.data:,}"
        if sizes.held_out is not None:
            text += f", of the held-out file {sizes.held_out:,}"
    yield Finding("account", "ok", f"{home.account.name[:12]}, {text}")


def policy(home: Home) -> Iterator[Finding]:
    laxer = list(_laxer(Policy.read(home.policy)))
    if laxer:
        yield Finding(
            "policy", "warning", f"less strict than the default: {'; '.join(laxer)}",
            f"Change it back in {home.policy}, unless you decided so.",
        )  # fmt: skip
    else:
        yield Finding("policy", "ok", "valid, and at least as strict as the default")


def budget(home: Home) -> Iterator[Finding]:
    from ..privacy.ledger.ledger import Ledger
    from .spending import spending

    if not Ledger.begun(home.ledger):
        yield Finding("budget", "ok", "there is no ledger yet: nothing has been spent")
        return
    rules = Policy()
    with contextlib.suppress(UmbelError):
        rules = Policy.read(home.policy)
    items, here = spending(home.ledger, rules), home.account.name
    yield Finding("budget", "ok", f"the ledger verifies; accounts in it: {len(items)}")
    for item in items:
        if item.dataset != here:
            continue
        # Rounded down: never more than there is.
        left = int(item.left * 100) / 100
        text = f"of this data epsilon {left:.2f} of {item.limit:g} is left at delta {item.delta:g}"
        if left > 0:
            yield Finding("budget", "ok", text)
        else:
            remedy = "Jobs with privacy are refused from now on; what is spent never comes back."
            yield Finding("budget", "warning", text, remedy)


def audit(home: Home) -> Iterator[Finding]:
    from .audit_log import AuditLog

    yield Finding("audit log", "ok", f"verifies; lines: {AuditLog(home.audit).verify()}")


def agent(home: Home) -> Iterator[Finding]:
    text = "no agent runs for this owner now"
    if held(home.lock):
        text = "an agent runs for this owner"
    yield Finding("agent", "ok", text)


def roster(home: Home) -> Iterator[Finding]:
    from ..errors import ProtocolError
    from ..privacy.secagg.keys import Identity
    from ..privacy.secagg.roster import SignedRoster, open_kept
    from ..privacy.secagg.signed import FOREVER, day

    if not home.roster.exists():
        yield Finding(
            "roster", "warning", "not admitted yet (or the server has not sent a roster)",
            f"Send {home.request_file} to the operator, and read out its fingerprint; the "
            "roster comes with the first job.",
        )  # fmt: skip
        return
    newest = open_kept(home.roster.read_bytes(), home.membership.keys)
    where = f"epoch {newest.epoch}, with {len(newest.members)} members"
    try:
        admitted = newest.identity(home.name)
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
