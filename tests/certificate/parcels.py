"""Parcels of a certified run, by its operator or a server, and what their owner expects of them."""

import shutil
import time

from umbel.certificate.form import FILE, Certificate
from umbel.certificate.issue import issue
from umbel.certificate.parcel import Expected, pack
from umbel.consortium.warrants import sign_delegation
from umbel.privacy.secagg.keys import Identity
from umbel.privacy.secagg.signed import DAY
from umbel.run.run_folder import RunFolder

OPERATOR = Identity(bytes(range(64)))
CONSORTIUM = "c" * 32
WEIGHTS = "adapter/adapter_model.safetensors"


def identity(run):
    return run.read_json("run.json")["id"]


def expected(folder, **changes):
    known = {
        "run": identity(folder),
        "job": folder.job.digest(),
        "consortium": CONSORTIUM,
        "key": OPERATOR.public.signing.hex(),
        "most_bytes": 10**8,
    }
    return Expected(**{**known, **changes})


def certified(contents, files):
    """The certificate for other files, by the operator's own key."""
    certificate = Certificate.from_bytes(contents[FILE], "it")
    adapter = certificate.adapter.model_copy(update={"files": files})
    return certificate.model_copy(update={"adapter": adapter}).signed_by(OPERATOR).to_bytes()


SERVER = Identity(bytes(range(1, 65)))


def delegated(run, signer=OPERATOR, to=SERVER, consortium=CONSORTIUM, days=1):
    """The statement that a server may certify a run, as of now."""
    now = int(time.time())
    key = to.public.signing
    given = sign_delegation(
        [signer], consortium, run, key, counter=1, issued=now, expires=now + days * DAY
    )
    return given.to_hex()


def by_server(run, delegation, parcels=True):
    """The run's result as its server signs it, and what an owner expects now."""
    result = run.read_json("result.json")
    result["roster"] = {"consortium": CONSORTIUM, "epoch": 3, "sha256": "0" * 64}
    before = (run.path / FILE).read_bytes()
    try:
        run.write(FILE, issue(run.path, result, SERVER, delegation).to_bytes())
        return pack(run.path, identity(run), SERVER, delegation if parcels else None)
    finally:
        run.write(FILE, before)


def receiver(run, tmp_path):
    """An owner that took part in a run, its parcel, and a way to send that."""
    from flwr.app import ConfigRecord, Message, RecordDict

    from umbel.client.intake import Intake
    from umbel.consortium.warrants import sign_job
    from umbel.flower import stamp, take_server_identity
    from umbel.simulations.rehearsal import set_up
    from umbel.wire.packing import SECAGG, to_bytes_record
    from umbel.wire.requests import ASSIGNMENT, COUNTED, RESULT, Assignment

    stage, name = set_up(run.job, tmp_path), identity(run)
    operator, consortium = stage.consortium.operator, stage.consortium.card.id
    result = run.read_json("result.json")
    result["roster"] = {"consortium": consortium, "epoch": 3, "sha256": "0" * 64}
    folder = RunFolder(shutil.copytree(run.path, tmp_path / "run"))
    folder.write(FILE, issue(folder.path, result, operator).to_bytes())
    parcel = pack(folder.path, name, operator)
    job = run.job.to_json()
    intake = Intake(stage.owners[0])
    intake.notes.add(name, seconds=1.0)  # it took part
    order = Assignment(
        "0.1.0", name, job, 0, 0, 1, signature=sign_job(operator, consortium, name, job)
    )

    def send(content, **counted):
        take_server_identity(1)
        record = to_bytes_record(listed=parcel.listed, content=content)
        told = RecordDict({ASSIGNMENT: order.to_record(), SECAGG: record})
        if counted:
            told[COUNTED] = ConfigRecord(counted)
        message = Message(told, dst_node_id=2, message_type=RESULT)
        stamp(message)
        return intake.handle(message)

    return intake, parcel, send
