"""A data owner's commands: set up, look whether all is well, take part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .cli_owner import owner_app as client_app

__all__ = ["client_app"]

Folder = Annotated[
    Path, typer.Argument(help="The data owner's folder [the current one].", show_default=False)
]


@client_app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder to make; its name is the owner's name.")],
    data: Annotated[
        Path, typer.Option(help="CSV, TSV, JSONL, Parquet, or a Hugging Face dataset folder.")
    ],
    consortium: Annotated[Path, typer.Option(help="consortium.json, which the operator gave out.")],
    name: Annotated[str | None, typer.Option(help="Name of this owner [the folder's].")] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column with the text [the job's].")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Column with the class [the job's].")
    ] = None,
    test_data: Annotated[Path | None, typer.Option(help="Held-out records, if apart.")] = None,
) -> None:
    """Make this owner's keys, settings and policy, and the request that goes to the operator."""
    from .client.home import Home

    home = Home.create(folder, consortium, data, name, text_column, label_column, test_data)
    print(
        f"Made {folder}: keys, client.toml, policy.toml. Nothing of the data left it.\n"
        f"The consortium's fingerprint, to compare with the operator: {home.card.fingerprint}\n"
        f"Send {home.request_file} to the operator, and tell this fingerprint on another way:\n"
        f"  {home.request.fingerprint}\n"
        f"Then read {home.policy}, and: umbel client check {folder}; umbel client run {folder}"
    )


@client_app.command()
def check(
    folder: Folder = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at everything that has to be right: data, keys, clock, certificate, server, disk, budget."""
    from .client.doctor import examine
    from .client.home import Home

    findings = examine(Home(folder))
    if as_json:
        print(json.dumps([finding.to_dict() for finding in findings], indent=2))
    else:
        for finding in findings:
            print(finding)
    if any(finding.bad for finding in findings):
        raise typer.Exit(1)


@client_app.command()
def run(
    folder: Folder = Path(),
    rehearsal: Annotated[bool, typer.Option("--rehearsal", hidden=True)] = False,
) -> None:
    """Take part: connect to the server, answer its jobs as the policy says. Ctrl-C ends it."""
    from .client.home import Home
    from .client.service import serve
    from .processes import log_to_stderr

    home = Home.open(folder)
    log_to_stderr()
    if rehearsal:
        from .privacy.randomness import reproducible_stream

        serve(home, reproducible_stream)
    else:
        serve(home)


@client_app.command()
def unit(folder: Folder = Path()) -> None:
    """Print a systemd unit that keeps the agent running."""
    from .client.home import Home
    from .client.unit import systemd_unit

    print(systemd_unit(Home.open(folder)), end="")
