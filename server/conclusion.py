"""The end of a run: certificate, model card and, last, the result that says it is finished."""

from __future__ import annotations

from typing import Any

from ..certificate.check import verify
from ..certificate.form import FILE, Certificate
from ..certificate.issue import issue
from ..certificate.model_card import model_card
from ..consortium.authority import Consortium
from ..errors import CertificateError
from ..learning.export import read_card
from ..privacy.secagg.keys import Identity
from ..run.run_folder import RunFolder


def conclude(
    folder: RunFolder,
    result: dict[str, Any],
    signer: Identity | None,
    delegation: str | None = None,
) -> None:
    """Write what a finished run leaves behind, beside its adapter.

    A crash before result.json is written leaves a run that is not finished, and the next process
    writes all of it again. Without a `signer` there is no certificate, and the model card says so.
    """
    _state(folder, result, signer, delegation)
    folder.write_json("result.json", result)


def certify(folder: RunFolder, signer: Identity, delegation: str | None = None) -> Certificate:
    """A new certificate for a finished run: after an audit, or where the key was not there before.

    Raises ``CertificateError`` if the folder is no longer what an earlier certificate says.
    """
    if not (folder.path / "result.json").is_file():
        raise CertificateError(
            f"{folder.path} is not finished, so there is nothing to certify yet."
        )
    if (folder.path / FILE).is_file():
        # An audit may be made again: it is the one file that a later certificate may say other of.
        wrong = [
            f for f in verify(folder.path).findings if f.holds is False and f.what != "audit.json"
        ]
        if wrong:
            raise CertificateError(
                f"{folder.path} differs from its certificate, and does not get another one: "
                + "; ".join(f"{finding.what}: {finding.text}" for finding in wrong)
            )
    certificate = _state(folder, folder.read_json("result.json"), signer, delegation)
    assert certificate is not None
    return certificate


def _state(
    folder: RunFolder, result: dict[str, Any], signer: Identity | None, delegation: str | None
) -> Certificate | None:
    certificate = issue(folder.path, result, signer, delegation) if signer else None
    if certificate is not None:
        folder.write(FILE, certificate.to_bytes())
    plan, adapter = folder.read_json("plan.json"), read_card(folder.path / "adapter")
    card = model_card(folder.job, plan, result, certificate, adapter)
    folder.write("adapter/README.md", card.encode())
    return certificate


def signer_of(consortium: Consortium, folder: RunFolder) -> tuple[Identity, str | None]:
    """Who certifies a run: the operator; else the server itself, and the delegation that allows that.

    Raises ``ConsortiumError`` if the keys for neither are here.
    """
    delegation = folder.read_json("run.json").get("delegation")
    if consortium.holds_keys or not delegation:
        return consortium.operator, None
    return consortium.delegate_identity, delegation
