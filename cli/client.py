"""A data owner's commands: set up, look whether all is well, take part."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..foreign import console, say, typed
from .answers import Answer, answers
from .options import AskedRun, Given, OwnersFolder, asks_for_declarations
from .owner import owner_app as client_app

if TYPE_CHECKING:
    from ..client.propose import Proposal

__all__ = ["client_app"]

Data = Annotated[
    Path, typer.Option(help="CSV, TSV, JSONL, Parquet, or a Hugging Face dataset folder.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Declare what was found, without asking.")]


@client_app.command()
@answers
@asks_for_declarations()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder to make; its name is the owner's name.")],
    data: Data,
    consortium: Annotated[
        Path, typer.Option(help="The consortium.json that the operator gave out.")
    ],
    name: Annotated[str | None, typer.Option(help="Name of this owner [the folder's].")] = None,
    *,
    given: Given,
    test_data: Annotated[
        Path | None, typer.Option(help="File of held-out records, if separate.")
    ] = None,
    yes: Yes = False,
) -> Any:
    """Make this owner's keys, settings and policy, and the request that goes to the operator.

    What jobs may ask of the data (columns, classes, which records are held out) is looked up in the
    file, shown, and declared once you confirm it.
    """
    from ..client.home import Home
    from ..client.policy import Policy
    from ..client.propose import propose

    Home.check_new(folder, consortium, name)
    proposal = propose(data, test_data, **given)
    _confirm(proposal, yes or _declared(given, proposal))
    home = Home.create(folder, consortium, data, name, proposal.declared)
    spends = Policy.read(home.policy).privacy
    say(
        f"Made {folder}: keys, client.toml, policy.toml. No data left it.\n"
        f"The consortium's fingerprint, to compare with the operator: {home.card.fingerprint}\n"
        f"Send {home.request_file} to the operator, and read this fingerprint out by telephone:\n"
        f"  {home.request.fingerprint}\n"
        f"One job may spend at most epsilon {spends.epsilon_per_job:g}, all jobs together, for ever, "
        f"{spends.epsilon_limit:g}: what is spent never comes back. Lower these in policy.toml.\n"
        f"Then read {home.policy}, and: umbel client check {typed(folder)}; umbel client run "
        f"{typed(folder)}"
    )
    return {
        "folder": str(folder),
        "request": str(home.request_file),
        "fingerprint": home.request.fingerprint,
        "consortium": home.card.fingerprint,
        "declared": proposal.declared.model_dump(mode="json"),
    }


@client_app.command()
@answers
@asks_for_declarations("text_column", "label_column", "label", "group_column", "training_share")
def upgrade(
    folder: OwnersFolder = Path(),
    *,
    given: Given,
    yes: Yes = False,
) -> Any:
    """Declare what a folder of an earlier version lacks; its account inherits all that was spent."""
    from ..client.owning import proposed_upgrade
    from ..client.owning import upgrade as take_over

    name, proposal, server = proposed_upgrade(folder, **given)
    _confirm(proposal, yes)
    take_over(folder, name, proposal, server)
    say(f"{folder} now declares its data (client.toml; the old one is client.toml.before).")
    return {"folder": str(folder), "declared": proposal.declared.model_dump(mode="json")}


@client_app.command("publish-size")
@answers
def publish_size(folder: OwnersFolder = Path()) -> Any:
    """Draw a new published size of the data, with new noise: it costs epsilon 0.1 once more."""
    from ..client.home import Home
    from ..client.owning import publish_size as draw

    sizes = draw(Home.open(folder))
    say(f"Published size from now on: {sizes.data:,}")
    if sizes.held_out is not None:
        say(f"Size of the held-out file, which sets the time of tests: {sizes.held_out:,}")
    return {"size": sizes.data, "held_out": sizes.held_out}


@client_app.command("new-account")
@answers
def new_account(
    folder: OwnersFolder = Path(),
    disjoint: Annotated[
        bool,
        typer.Option(
            "--disjoint",
            help="You declare that these data and all earlier data of this folder have no person "
            "in common. The ledger records this declaration.",
        ),
    ] = False,
) -> Any:
    """Begin an account with nothing spent, for other data than before."""
    from ..client.home import Home
    from ..client.owning import new_account as begin
    from ..errors import ConsortiumError

    if not disjoint:
        raise ConsortiumError(
            "If these data share records with earlier ones, they keep the old account, and with it what "
            "it has spent: a file that changed or grew needs no new account. If they share "
            "none: --disjoint"
        )
    account = begin(Home.open(folder))
    say(f"New account: {account}. What the old account spent stays in the ledger.")
    return {"account": account}


@client_app.command()
@answers
def moved(folder: OwnersFolder = Path()) -> Any:
    """Say that this copy of the folder is the only one that goes on; the ledger notes it."""
    from ..client.home import Home
    from ..client.owning import moved as settle

    settle(Home.open(folder))
    say(
        "This folder is the one in use. Delete every other copy of it: if two copies spend, each "
        "counts only a part."
    )
    return {"folder": str(folder)}


def _declared(given: Given, proposal: Proposal) -> bool:
    """Whether the options say it all, so that there is nothing to confirm."""
    return "text_column" in given and (not proposal.classes or "labels" in given)


def _confirm(proposal: Proposal, confirmed: bool) -> None:
    """Show a declaration, and have it confirmed by anyone who is there."""
    from ..errors import ConsortiumError

    console(highlight=False).print(proposal.table())
    if confirmed:
        return
    if not sys.stdin.isatty():
        raise ConsortiumError(
            "This declaration needs a confirmation, and there is no terminal to ask at. Give "
            "--text-column and a --label for each class, or accept what was found with --yes. "
            "Nothing was made."
        )
    if not typer.confirm("May jobs ask for this, and for nothing else?", default=True):
        raise ConsortiumError(
            "Nothing was made. Run the command again, with options for what should be different."
        )


@client_app.command()
@answers
def check(
    folder: OwnersFolder = Path(),
) -> Any:
    """Look at everything that has to be right: data, keys, clock, certificate, server, disk, budget."""
    from ..client.doctor import examine
    from ..client.home import Home

    findings = examine(Home(folder))
    return Answer(
        [finding.to_dict() for finding in findings],
        [str(finding) for finding in findings],
        status=int(any(finding.bad for finding in findings)),
    )


@client_app.command()
def run(
    folder: OwnersFolder = Path(),
    rehearsal: Annotated[bool, typer.Option("--rehearsal", hidden=True)] = False,
) -> None:
    """Take part: connect to the server, answer its jobs as the policy says. Ctrl-C ends it."""
    from ..client.home import Home
    from ..client.service import serve
    from ..storage.processes import end_with_parent, log_to_stderr

    home = Home.open(folder)
    end_with_parent()
    log_to_stderr()
    if rehearsal:
        from ..privacy.randomness import reproducible_stream

        serve(home, reproducible_stream)
    else:
        serve(home)


@client_app.command()
@answers
def models(
    folder: OwnersFolder = Path(),
) -> Any:
    """List the models that came of the jobs this owner took part in, and where they lie."""
    from ..client.home import Home

    found = Home.open(folder).models.list()
    for model in found:
        epsilon = "no privacy" if model.epsilon is None else f"epsilon at most {model.epsilon:.4g}"
        rounds = f"{model.rounds} of {model.planned} rounds"
        say(f"{model.name}, {model.issued[:10]}, {rounds}, {epsilon}\n  {model.path}")
    if not found:
        say("No model yet. A model arrives when a run in which this owner took part is finished.")
    return [model.to_dict() for model in found]


@client_app.command("record")
@answers
def record_of(
    run: AskedRun,
    folder: OwnersFolder = Path(),
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write into [records, in the owner's folder].", show_default=False
        ),
    ] = None,
) -> Any:
    """Draw up the record of processing of a run on this owner's data, as a page and a PDF.

    Purpose, data, recipients, measures, guarantee, what it has cost, retention. What Umbel does not know
    is an empty line to be filled in.
    """
    from ..client.home import Home
    from ..client.processing import processing_record
    from .record import written

    home = Home.open(folder)
    record, stem = processing_record(home, run)
    return written(record, out or home.path / "records", stem)


@client_app.command("own-model")
@answers
def own_model_of(
    run: AskedRun,
    folder: OwnersFolder = Path(),
    out: Annotated[
        Path | None,
        typer.Option(
            help="New folder to write [own-models/RUN, in the owner's folder].", show_default=False
        ),
    ] = None,
) -> Any:
    """Write this owner's own model of a finished run as a plain adapter, and test it here.

    Of a run whose strategy leaves each owner a model (fedsa-lora, local-head, fedrep, ditto). The figures
    are of this owner's held-out records. Nothing leaves, and nothing is charged.
    """
    from ..client.home import Home
    from ..client.own_model import write_own_model

    found = write_own_model(Home.open(folder), run, out)
    say(found.line)
    return found.to_dict()


@client_app.command()
def unit(folder: OwnersFolder = Path()) -> None:
    """Print a systemd unit that keeps the agent running."""
    from ..client.home import Home
    from ..client.unit import systemd_unit

    say(systemd_unit(Home.open(folder)), end="")


@client_app.command()
@answers
def rotate(
    folder: OwnersFolder = Path(),
    finish: Annotated[
        bool, typer.Option("--finish", help="Use the new keys: the operator has admitted them.")
    ] = False,
) -> Any:
    """Replace this owner's keys: first make them, then, once they are admitted, --finish.

    The request is signed with the keys of today, so the operator need not compare it by telephone. If
    those may be stolen, make a new folder instead (umbel client init).
    """
    from ..client.home import Home
    from ..client.keys import renew_keys, use_new_keys

    home = Home.open(folder)
    if finish:
        use_new_keys(home)
        say("The new keys are in use. Start the agent again.")
        return {"in_use": True, "request": None}
    request = renew_keys(home)
    say(f"Request: {request}  (send it to the operator, who admits it)")
    say(f"Then stop the agent, and: umbel client rotate {typed(folder)} --finish")
    return {"in_use": False, "request": str(request)}


@client_app.command()
@answers
def trust(
    card: Annotated[
        Path, typer.Argument(help="The consortium's newest consortium.json.", show_default=False)
    ],
    folder: OwnersFolder = Path(),
) -> Any:
    """Follow the consortium's keys by its newest card, and believe former authorities no more.

    Agents follow by themselves with the next job; this is for one that was away meanwhile. The card is
    taken only if its keys were handed over from those that this folder knows.
    """
    from ..client.home import Home
    from ..client.keys import trust as follow
    from ..consortium.card import Card
    from ..errors import ConsortiumError, ProtocolError

    home = Home.open(folder)
    try:
        changed = follow(home, Card.read(card))
    except ProtocolError as error:
        raise ConsortiumError(f"{card}: {error}. Ask the operator, by telephone.") from None
    say("The new keys are accepted." if changed else "These keys are already known.")
    say(f"Fingerprint: {home.card.fingerprint}")
    return {"changed": changed, "fingerprint": home.card.fingerprint}


@client_app.command("approve-roster")
@answers
def approve_roster(
    file: Annotated[
        Path, typer.Argument(help="File that umbel sign roster wrote.", show_default=False)
    ],
    folder: OwnersFolder = Path(),
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking.")] = False,
) -> Any:
    """Approve a change of the members, if the consortium asks its members to. Back to the operator then.

    Compare the fingerprint of each new member with its owner, by telephone, and ask why a limit changes.
    """
    from ..client.home import Home
    from ..client.keys import approve, change_of
    from ..consortium.packets import SignedMembers
    from ..errors import ConsortiumError, ProtocolError

    home, packet = Home.open(folder), SignedMembers.read(file)
    try:
        change = change_of(home, bytes.fromhex(packet.roster), packet.requests)
    except ProtocolError as error:
        raise ConsortiumError(f"{file}: {error}") from None
    for line in change.lines:
        say(line)
    if not yes and not sys.stdin.isatty():
        raise ConsortiumError(
            "This needs a confirmation, and there is no terminal to ask at. Approve it with --yes."
        )
    if not yes and not typer.confirm("Approve this?"):
        raise ConsortiumError("Nothing was approved.")
    approve(home, file, packet, change)
    say(f"Approved: {file} (send it back to the operator)")
    return {"approved": str(file), "change": list(change.lines)}
