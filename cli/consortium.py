"""The operator's commands on a consortium: one small function a command, and no logic of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConsortiumError
from ..foreign import say, typed
from .answers import answers
from .group import command_group

if TYPE_CHECKING:
    from ..consortium.authority import Consortium
    from ..privacy.secagg.roster import Limits

consortium_app = command_group(
    "Make a consortium, and manage its members.",
)

Folder = Annotated[Path, typer.Argument(help="The operator's folder.", show_default=False)]


@consortium_app.command()
@answers
def create(
    folder: Folder,
    host: Annotated[
        str, typer.Option(help="Name or address at which data owners reach this server.")
    ],
    port: Annotated[
        int, typer.Option(min=1, max=65534, help="The only port that must be open to them.")
    ] = 9443,
    name: Annotated[
        str | None,
        typer.Option(help="Name that owners see [the folder's name].", show_default=False),
    ] = None,
    roster_days: Annotated[
        int, typer.Option(min=1, max=36500, help="How long a roster is valid after it is signed.")
    ] = 90,
    owners: Annotated[
        int, typer.Option(min=0, help="How many members must approve each change of the members.")
    ] = 0,
    job: Annotated[
        Path | None,
        typer.Option(
            help="Job file whose [encryption] every member will insist on [the defaults].",
            show_default=False,
        ),
    ] = None,
) -> Any:
    """Make the keys, certificates and card of a new consortium.

    Give its consortium.json to every data owner, over a way that nobody else can change. Keep the
    rest to yourself, and a backup of it: anyone who has these keys is the operator.
    """
    from dataclasses import replace

    from ..consortium.authority import Consortium
    from ..job import Job
    from ..planning.limits import secure_limits
    from ..privacy.secagg.roster import Limits

    limits = secure_limits(Job.load(job).encryption) if job else Limits()
    limits = replace(limits, owners=owners)
    made = Consortium.create(folder, host, port, limits, name, roster_days=roster_days)
    say(f"Made the consortium {made.card.name!r} at {made.card.address} in {folder}.")
    say(f"Card:        {folder / 'consortium.json'}  (give it to every data owner)")
    say(f"Fingerprint: {made.card.fingerprint}")
    say(f"Absences:    {_absences(made.limits)}")
    say(
        "Keys:        all in this folder. To keep them off the server's machine: umbel consortium split"
    )
    say(f"Next: umbel consortium admit {typed(folder)} REQUEST.json for each owner's request.")
    return {
        "name": made.card.name,
        "card": str(folder / "consortium.json"),
        "fingerprint": made.card.fingerprint,
    }


@consortium_app.command()
@answers
def split(
    folder: Folder,
    keys: Annotated[
        Path,
        typer.Argument(help="New folder for the keys, to be kept elsewhere.", show_default=False),
    ],
) -> Any:
    """Move the keys out of the folder, so that the server goes on without them.

    Best done where the consortium is made, before the folder goes to the server's machine: what was
    once on a disk may be found there again.
    """
    from ..consortium.authority import Consortium
    from ..server.split import split as move

    move(Consortium.open(folder), keys)
    say(f"Keys:   {keys}  (keep it offline, with a backup: umbel consortium admit, umbel sign)")
    say(f"Server: {folder} (signs only what an order's delegation allows)")
    return {"keys": str(keys), "server": str(folder)}


@consortium_app.command()
def unit(
    folder: Folder,
    window: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            metavar="PORT",
            help="Write the unit of umbel window on this port instead, such as 9444.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print a systemd unit that keeps the server running."""
    from ..consortium.authority import Consortium
    from ..server.unit import systemd_unit, window_unit

    opened = Consortium.open(folder)
    say(systemd_unit(opened) if window is None else window_unit(opened, window), end="")


@consortium_app.command()
@answers
def admit(
    folder: Folder,
    request: Annotated[
        Path,
        typer.Argument(help="File that the owner's umbel client init wrote.", show_default=False),
    ],
    fingerprint: Annotated[
        str | None,
        typer.Option(
            help="Fingerprint that the owner read out; admits only if the request has it."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Admit without asking.")] = False,
) -> Any:
    """Make a data owner a member.

    Compare the fingerprint with the owner, over the telephone say: a request on its own does not
    show who made it. The members get the new roster from the server.
    """
    from ..consortium.authority import Consortium
    from ..consortium.card import Request

    consortium, asked = Consortium.open(folder), Request.read(request)
    asked.check(consortium.card)
    say(f"{asked.name} asks to be admitted to {consortium.card.name!r}.")
    say(f"Fingerprint: {asked.fingerprint}")
    members = consortium.members()
    known = any(member.name == asked.name and member.keys == asked.keys for member in members)
    succeeds = any(asked.is_of(member) for member in members)
    if known:
        say("It is a member already, with the same keys.")
    elif succeeds:
        say("It is signed with this member's present keys, which the new ones will replace.")
    _confirm(
        asked.has_fingerprint(fingerprint) if fingerprint is not None else None,
        yes or known or succeeds,
    )
    consortium.admit(asked)
    waits = _pending(consortium)
    if not waits:
        say(f"{asked.name} is a member. {_tolerance(consortium)}")
        _bring_roster(consortium)
    return {"name": asked.name, "fingerprint": asked.fingerprint, "waits": waits}


@consortium_app.command()
@answers
def remove(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Name of the member.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask about runs in progress.")] = False,
) -> Any:
    """End a membership.

    The next roster is without it, and sums are made without it from then on. What it gave to
    earlier sums stays in them. Says first what that means for runs in progress.
    """
    from ..consortium.authority import Consortium
    from ..server.orders import consequences

    consortium = Consortium.open(folder)
    told = consequences(consortium, name) if name in _names(consortium) else []
    for line in told:
        say(line)
    if told and not yes:
        if not sys.stdin.isatty():
            raise ConsortiumError(
                f"This needs a confirmation, and there is no terminal to ask at. Remove {name} "
                "with --yes. Nothing was changed."
            )
        if not typer.confirm(f"Remove {name}?"):
            raise ConsortiumError("Nothing was changed.")
    removed = consortium.remove(name)
    if _pending(consortium):
        return {"name": name, "removed": removed, "waits": True}
    what = "is no longer a member" if removed else "was removed before; nothing was changed"
    say(f"{name} {what}. {_tolerance(consortium)}")
    if removed and not consortium.holds_keys:
        say(
            "Remove it on the machine with the keys as well: otherwise the next roster signed "
            "there has it again."
        )
    _bring_roster(consortium)
    return {"name": name, "removed": removed, "waits": False}


@consortium_app.command()
@answers
def members(folder: Folder) -> Any:
    """List the members and their fingerprints; and the change, if one waits for approval."""
    from ..consortium.authority import Consortium

    consortium = Consortium.open(folder)
    for member in consortium.members():
        say(f"{member.name:24} {member.fingerprint}")
    say(_tolerance(consortium))
    found = [{"name": one.name, "fingerprint": one.fingerprint} for one in consortium.members()]
    return {"members": found, "waits": _pending(consortium)}


@consortium_app.command()
@answers
def renew(folder: Folder) -> Any:
    """Renew the server's certificate; restart the server afterwards. Owners need nothing new."""
    from ..consortium.authority import Consortium

    consortium = Consortium.open(folder)
    consortium.renew_certificate()
    say(f"The certificate is valid for {consortium.certificate_days_left()} days.")
    say("Restart the server to use it.")
    return {"days": consortium.certificate_days_left()}


@consortium_app.command()
@answers
def observer(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Name of the observer.", show_default=False)],
    key: Annotated[
        str | None,
        typer.Argument(
            help="Key that umbel observer init printed [withdraw it].", show_default=False
        ),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=36500, help="How long it may read.")] = 365,
) -> Any:
    """Let somebody read how runs stand, and change nothing; without a key, no longer."""
    from ..consortium.authority import Consortium
    from ..server.observers import grant, key_of, withdraw

    consortium = Consortium.open(folder)
    if key is None:
        path = withdraw(consortium, name)
        if consortium.is_keys_alone:
            say(
                f"{path} is deleted here. Delete it in the server's folder as well: until then "
                f"{name} can read."
            )
        else:
            say(f"{name} can no longer read.")
        return {"name": name, "grant": None}
    before = key_of(consortium, name)
    path = grant(consortium, name, key, days)
    if before not in (None, key.lower()):
        say(f"{name} had another key, which can no longer read: {before}")
    say(f"{name} may read for {days} days: {path}")
    if consortium.is_keys_alone:
        say("Copy that file to the same place in the server's folder.")
    return {"name": name, "grant": str(path), "days": days}


@consortium_app.command()
@answers
def rotate(
    folder: Folder,
    key: Annotated[
        str, typer.Argument(help="operator, consortium or authority.", show_default=False)
    ],
) -> Any:
    """Replace a key of the consortium. Owners follow with the next job.

    operator: signs jobs. consortium: signs rosters, and replaces the others. authority: signs the
    server's certificate; renew that once all owners have followed.
    """
    from ..consortium.authority import Consortium
    from ..consortium.key_handovers import KINDS
    from ..consortium.rotation import rotate as replace

    kind = next((kind for kind in KINDS if kind == key), None)
    if kind is None:
        raise ConsortiumError(f"Which key? {key!r} is not one of: {', '.join(KINDS)}.")
    consortium = Consortium.open(folder)
    card = replace(consortium, kind)
    say(f"The {kind} key was replaced. Keep a backup of {folder}; the old key signs nothing new.")
    say(
        f"Card: {folder / 'consortium.json'} (give it to new owners, and to those that miss the next job)"
    )
    say(f"Fingerprint: {card.fingerprint}")
    if kind == "authority":
        say(
            f"When all owners have accepted the new key: umbel consortium renew {typed(folder)}, "
            "restart the server."
        )
    if consortium.is_keys_alone:
        say(f"To tell the server: umbel sign roster {typed(folder)}, then umbel take there.")
    return {"key": kind, "fingerprint": card.fingerprint}


def _pending(consortium: Consortium) -> bool:
    """Whether the change waits for approvals; says what to do about it."""
    from ..privacy.secagg.roster import approvals_needed

    if consortium.pending is None:
        return False
    current = consortium.current_roster()
    needed = approvals_needed(current)
    before = current.by_name if current else {}
    after = consortium.pending.whole.by_name
    joins = [name for name in after if after[name] != before.get(name)]
    leaves = [name for name in before if before[name] != after.get(name)]
    for what, names in (("To admit", joins), ("To remove", leaves)):
        if names:
            say(f"{what}: {', '.join(names)}")
    say(f"The change waits until {needed} members have approved it:")
    say(
        f"  umbel sign roster {typed(consortium.path)} --out roster.signed (here; send it to each of them)"
    )
    say("  umbel client approve-roster roster.signed FOLDER   (each of them)")
    say(
        f"  umbel take roster.signed --consortium {typed(consortium.path)}   (here, for each file "
        "that comes back)"
    )
    return True


def _bring_roster(consortium: Consortium) -> None:
    if consortium.is_keys_alone:
        say(
            f"To tell the server: umbel sign roster {typed(consortium.path)}, then umbel take there."
        )


def _names(consortium: Consortium) -> list[str]:
    roster = consortium.current_roster()
    return list(roster.by_name) if roster else []


def _tolerance(consortium: Consortium) -> str:
    """How many members there are, and how many of them a round can do without."""
    from ..privacy.secagg.parameters import most_absent

    members = len(_names(consortium))
    absent = most_absent(members, consortium.limits)
    if absent is None:
        return f"Members: {members}, which is too few for an encrypted sum."
    return f"Members: {members}; a round that asks all of them can do without {absent}."


def _absences(limits: Limits) -> str:
    """How many members may be absent, for consortia of some sizes."""
    from ..privacy.secagg.parameters import most_absent

    found = {members: most_absent(members, limits) for members in (3, 4, 5, 10, 30)}
    shown = [f"{absent} of {members}" for members, absent in found.items() if absent is not None]
    return f"a round can do without {', '.join(shown)} members"


def _confirm(matches: bool | None, yes: bool) -> None:
    if matches is False:
        raise ConsortiumError(
            "The fingerprint of the request differs from the one that you gave. Nobody was admitted: "
            "ask the owner for the fingerprint of its folder, and for the request again."
        )
    if matches or yes:
        return
    if not sys.stdin.isatty():
        raise ConsortiumError(
            "The fingerprint needs to be compared, and there is no terminal to ask at. Give the "
            "one that the owner read out with --fingerprint, or admit without comparing with --yes."
        )
    if not typer.confirm("Did its owner read out the same fingerprint?"):
        raise ConsortiumError("Nobody was admitted.")
