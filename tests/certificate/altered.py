"""Runs whose files and certificates are changed: what tests of certificates share."""

import json

from umbel.certificate.check import KEY
from umbel.certificate.form import FILE, Certificate
from umbel.privacy.secagg.keys import Identity

SITES = ["film", "press", "shop", "social"]


def read(path):
    return json.loads(path.read_text())


def edit(path, change):
    values = read(path)
    change(values)
    path.write_text(json.dumps(values))


def wrong(verdict):
    """What differs, by name."""
    assert not verdict.valid
    return {found.what: found.text for found in verdict.findings if found.holds is False}


def resigned(run, change, key=None):
    """The run's certificate with other content, signed anew by the run's own key, or by another."""
    certificate = Certificate.read(run / FILE)
    values = certificate.model_dump(mode="json")
    change(values)
    signer = key or Identity((run / KEY).read_bytes())
    changed = Certificate.model_validate(values).signed_by(signer)
    (run / FILE).write_bytes(changed.to_bytes())
