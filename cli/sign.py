"""`umbel sign` and `umbel take`: what is signed where the keys are, and taken in where the server is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConsortiumError
from ..foreign import say, typed
from .answers import answers
from .group import command_group
from .options import OperatorsFolder, Set
from .server import warn_if_unserved, warn_of_refusals

if TYPE_CHECKING:
    from ..consortium.packets import Packet

sign_app = command_group(
    "Sign a job, the roster or the server's certificate on the machine with the keys, away from "
    "the server.",
)

Keys = Annotated[
    Path, typer.Argument(help="The folder with the consortium's keys.", show_default=False)
]
Out = Annotated[
    Path | None, typer.Option("--out", help="File to write [here].", show_default=False)
]

_TAKE = "Next, at the server: umbel take {} --consortium FOLDER"


@sign_app.command()
@answers
def job(
    keys: Keys,
    job: Annotated[
        Path,
        typer.Argument(help="Job file (TOML), or an order to sign again.", show_default=False),
    ],
    set_: Set = [],  # noqa: B006
    out: Out = None,
    former: Annotated[
        bool,
        typer.Option(
            "--former",
            help="Also sign again an order that was signed with a replaced operator's key.",
        ),
    ] = False,
) -> Any:
    """Sign a job for one run. Needs the base model's files, to write their digest into the job.

    An order that has ended, or ends soon, is signed again for the same run, if this operator signed it.
    """
    from ..consortium.authority import Consortium
    from ..consortium.packets import SignedJob, is_packet, read_packet, refuse_others
    from ..job import Job
    from ..server.signing import sign_again, sign_order

    consortium, again = Consortium.open(keys), is_packet(job)
    if out is not None and not again:
        refuse_others(out, SignedJob)
    if again:
        before = read_packet(job)
        if not isinstance(before, SignedJob):
            raise ConsortiumError(f"{job} is signed, but it is not an order for a job.")
        refuse_others(out or job, SignedJob, before.run)
        order = sign_again(consortium, before, former=former)
    else:
        wanted = Job.compose(job, {}, set_)
        warn_of_refusals(consortium, wanted)
        order = sign_order(consortium, wanted)
    return _write(order, out or (job if again else Path(f"{order.run}.signed"))) | {
        "run": order.run
    }


@sign_app.command()
@answers
def roster(
    keys: Keys,
    days: Annotated[
        int | None,
        typer.Option(
            min=1, max=36500, help="How long it is valid [as set at create].", show_default=False
        ),
    ] = None,
    out: Out = None,
) -> Any:
    """Sign the newest roster, which holds from today on: after each admission and removal, and in time."""
    from ..consortium.authority import Consortium
    from ..consortium.packets import SignedMembers, refuse_others
    from ..privacy.secagg.signed import day
    from ..server.signing import sign_members

    consortium = Consortium.open(keys)
    waits = consortium.pending is not None
    what = f"{consortium.epoch:04}" if not waits else "pending"
    path = out or Path(f"roster-{what}.signed")
    if writes := waits or consortium.delegate is not None or out is not None:
        refuse_others(path, SignedMembers)
    packet = sign_members(consortium, days)
    if not waits:
        say(f"The roster is valid until {day(consortium.roster_ends())}.")
    values = (
        {"signed": None}
        if not writes
        else _write(
            packet,
            path,
            "Next, at each member: umbel client approve-roster {} FOLDER" if waits else _TAKE,
        )
    )
    return values | {"until": None if waits else day(consortium.roster_ends()), "waits": waits}


@sign_app.command()
@answers
def certificate(keys: Keys, out: Out = None) -> Any:
    """Make a new certificate for the server's key; owners need nothing new."""
    from ..consortium.authority import Consortium
    from ..consortium.packets import SignedCertificate, refuse_others
    from ..server.signing import sign_certificate

    consortium, path = Consortium.open(keys), out or Path("server-certificate.signed")
    refuse_others(path, SignedCertificate)
    packet = sign_certificate(consortium)
    say(f"The certificate is valid for {consortium.certificate_days_left()} days.")
    return _write(packet, path) | {"days": consortium.certificate_days_left()}


@answers
def take(
    file: Annotated[Path, typer.Argument(help="File that umbel sign wrote.", show_default=False)],
    consortium: OperatorsFolder = None,
    wait: Annotated[
        float | None,
        typer.Option(min=0, help="For a job: seconds to wait for each member.", show_default=False),
    ] = None,
) -> Any:
    """Take in what was signed elsewhere: queue a job, go by a roster, use a certificate."""
    from ..consortium.packets import SignedJob, SignedMembers, read_packet
    from ..reports.status import taken_line
    from ..run.store import Store
    from ..server.orders import begin
    from ..server.signing import approvals_awaited, take_certificate, take_members
    from .server import opened

    folder, packet = opened(consortium), read_packet(file)
    if isinstance(packet, SignedJob):
        begin(folder, packet, wait)
        say(taken_line(Store(folder.database).run(packet.run)))
        warn_if_unserved(folder)
        return {"run": packet.run}
    if isinstance(packet, SignedMembers) and (awaited := approvals_awaited(folder, packet)):
        say(awaited)
        return {"waits": awaited}
    if isinstance(packet, SignedMembers):
        new = take_members(folder, packet)
        say(
            f"The roster has {len(packet.requests)} members"
            + (f"; new: {', '.join(new)}." if new else ".")
        )
        return {"members": len(packet.requests), "new": list(new)}
    take_certificate(folder, packet)
    days = folder.certificate_days_left()
    say(f"The certificate is valid for {days} days. Restart the server.")
    return {"days": days}


def _write(packet: Packet, path: Path, following: str = _TAKE) -> dict[str, Any]:
    packet.write(path)
    say(f"Signed:  {path}")
    say(following.format(typed(path.name)))
    return {"signed": str(path)}
