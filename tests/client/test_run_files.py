"""What an owner keeps of a run lies under the whole hash of its name, also of a run that began earlier."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from umbel.client.kept import KeptUpdates
from umbel.client.keys import new_node_key
from umbel.client.run_files import of_run
from umbel.client.secure import Membership
from umbel.consortium.authority import Consortium
from umbel.consortium.card import Request
from umbel.privacy.secagg.keys import Identity
from umbel.privacy.secagg.roster import Limits

RUN = "night-20260101-000000-0123456789abcdef"
EARLIER = hashlib.sha256(RUN.encode()).hexdigest()[:16]


@given(run=st.text(), ending=st.sampled_from(["", ".json"]))
def test_a_run_has_a_file_of_its_own_by_all_of_its_hash(run, ending, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    path = of_run(folder, run, ending)
    assert path.parent == folder
    assert path.name == hashlib.sha256(run.encode()).hexdigest() + ending


def test_a_run_of_an_earlier_version_goes_on_with_its_files(tmp_path):
    earlier = tmp_path / f"{EARLIER}.update"
    store, update = KeptUpdates(tmp_path), {}
    key = store.keep(RUN, b"w" * 32, update)
    (kept,) = tmp_path.iterdir()
    assert len(kept.name) == 64 + len(".update")
    kept.rename(earlier)
    assert store.read(RUN, b"w" * 32, key, {}) == {}
    store.keep(RUN, b"v" * 32, update)
    assert list(tmp_path.iterdir()) == [earlier]
    store.close(RUN)
    store.keep(RUN, b"w" * 32, update)
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]


def test_journal_and_witness_of_a_run_go_by_one_name(tmp_path):
    """An earlier journal that looked for its witness at another place would throw its secrets away."""
    consortium = Consortium.create(tmp_path / "c", "localhost", 9443, Limits())
    identity = Identity(bytes(range(64)))
    (tmp_path / "identity").write_bytes(identity.to_secret_bytes())
    consortium.admit(Request.make(consortium.card, "mary", identity, new_node_key()[1]))
    (tmp_path / "roster").write_bytes(consortium.roster())
    (tmp_path / "key").write_bytes(consortium.card.consortium_key_bytes)

    def places(name):
        journals, witness = tmp_path / name / "journals", tmp_path / name / "witness"
        if name == "earlier":
            (journals / EARLIER).mkdir(parents=True)
        found = Membership(
            "mary",
            tmp_path / "identity",
            tmp_path / "key",
            tmp_path / "roster",
            journals,
            witness,
        )
        found.participant(RUN)
        return {path.name for folder in (journals, witness) for path in folder.iterdir()}

    assert places("earlier") == {EARLIER}
    assert places("new") == {hashlib.sha256(RUN.encode()).hexdigest()}
