"""`umbel verify` and `umbel certify`: a run's certificate, checked or made again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import JobError
from ..foreign import say
from .answers import Answer, answers
from .completing import run_folders

if TYPE_CHECKING:
    from ..certificate.check import Verdict

_SEEDED = (
    "NOT PRIVATE, because its noise was seeded. The same job with secret noise would promise this:"
)


@answers
def verify(
    what: Annotated[
        Path,
        typer.Argument(
            help="Run folder, or certificate.json.",
            metavar="RUN_OR_FILE",
            autocompletion=run_folders,
        ),
    ],
    adapter: Annotated[
        Path | None,
        typer.Option(help="Adapter folder to check [that of the run].", show_default=False),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="The signer's public key, in hexadecimal.", metavar="HEX")
    ] = None,
    consortium: Annotated[
        Path | None, typer.Option(help="The consortium.json that names the operator's key.")
    ] = None,
) -> Any:
    """Check a run's certificate: signature, job, adapter, epsilon. Needs no network.

    Exits with 2 if anything differs.
    """
    from ..certificate.check import verify as check
    from ..consortium.card import Card

    if key is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", key):
        raise JobError("--key: a public key has 64 hexadecimal digits.")
    if key is not None and consortium is not None:
        raise JobError("Give --key or --consortium, not both: the card names the key.")
    verdict = check(what, adapter, key, Card.read(consortium) if consortium else None)
    return Answer(verdict.to_dict(), lambda: _text(verdict), status=0 if verdict.valid else 2)


@answers
def certify(
    run: Annotated[
        Path, typer.Argument(help="Folder of a finished run.", autocompletion=run_folders)
    ],
    consortium: Annotated[
        Path | None,
        typer.Option(help="The operator's folder, for a run between machines.", show_default=False),
    ] = None,
) -> Any:
    """Sign a run's certificate again: with its audit, or once the operator's key is there."""
    from ..consortium.authority import Consortium
    from ..run.run_folder import RunFolder
    from ..server.conclusion import certify as sign
    from ..server.conclusion import signer_of
    from ..simulations.issuer import run_key

    folder = RunFolder.open(run)
    deployed = bool(folder.read_json("run.json").get("signature"))
    if deployed and consortium is None:
        raise JobError(f"{run} ran between machines: give the operator's folder with --consortium.")
    if not deployed and consortium is not None:
        raise JobError(
            f"{run} is a simulation, which signs its own certificate: leave out --consortium."
        )
    opened = Consortium.open(consortium) if consortium else None
    by = signer_of(opened, folder) if opened else (run_key(run), None)
    file, digest = run / "certificate.json", sign(folder, *by).digest
    say(f"{file}: {digest}")
    return {"certificate": str(file), "sha256": digest}


def _text(verdict: Verdict) -> str:
    marks = {True: "ok       ", False: "DIFFERS  ", None: "-        "}
    lines = [f"{marks[found.holds]}{found.what}: {found.text}" for found in verdict.findings]
    certificate = verdict.certificate
    if certificate is None or not verdict.valid:
        return "\n".join([*lines, "", "NOT VALID: do not rely on this certificate."])
    return "\n".join(
        [
            *lines,
            "",
            f"Valid. {certificate.kind.capitalize()} {certificate.run}, {certificate.issued}.",
            *([_SEEDED] if certificate.guarantee.seeded else []),
            certificate.guarantee.sentence,
            "",
            "What it does not prove:",
            *(f"- {limit}" for limit in certificate.limits),
        ]
    )
