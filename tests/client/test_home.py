"""The owner's folder: what it holds, who can read it, and what is refused before it is made."""

import csv
import json
import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_private_key

from umbel.client.home import Home
from umbel.client.policy import Policy
from umbel.consortium.authority import Consortium
from umbel.consortium.card import Request
from umbel.errors import ConsortiumError, DataError, FileError, PlanRefused
from umbel.job import EncryptionSpec
from umbel.privacy.secagg.keys import Identity
from umbel.privacy.secagg.roster import Limits


@pytest.fixture
def consortium(tmp_path):
    return Consortium.create(tmp_path / "operator" / "hospitals", "localhost", 9443, Limits())


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "notes.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["note", "class"], ["all is well", "fine"], ["oh", "ill"]])
    return path


@pytest.fixture
def make(consortium, data, tmp_path):
    def build(name="st-mary", **options):
        card = consortium.path / "consortium.json"
        return Home.create(tmp_path / name, card, options.pop("data", data), **options)

    return build


def test_an_owner_is_admitted_and_its_membership_holds_in_the_first_roster(make, consortium):
    home = make()
    consortium.admit(home.path.parent / "st-mary.request.json")
    home.roster.write_bytes(consortium.roster())
    home.membership.check(EncryptionSpec())
    with pytest.raises(PlanRefused):
        home.membership.check(EncryptionSpec(minimum=4))
    assert home.membership.participant("run").member.name == "st-mary"


def test_only_the_owner_can_read_the_folder_and_its_secrets(make):
    home = make()
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    for secret in (home.identity, home.node_key):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_the_request_holds_the_public_halves_of_the_folders_keys_and_no_secret(make):
    home = make()
    request = Request.read(home.request_file)
    assert request.identity == Identity(home.identity.read_bytes()).public
    node = load_ssh_private_key(home.node_key.read_bytes(), None)
    assert load_pem_public_key(request.node_key.encode()) == node.public_key()
    assert str(home.data) not in home.request_file.read_text()


def test_a_lost_request_is_made_again_byte_for_byte(make):
    home = make()
    before = home.request_file.read_bytes()
    home.request_file.unlink()
    assert Home.open(home.path).write_request().read_bytes() == before


def test_the_settings_are_what_was_given_and_the_rest_is_explained(make, data):
    home = make(name="folder", text_column="note", label_column="class", test_data=data)
    settings = Home.open(home.path).settings
    assert settings.name == "folder"
    assert (settings.data.text_column, settings.data.label_column) == ("note", "class")
    assert (home.data, home.test_data) == (data, data)
    assert home.address == "localhost:9443"
    assert settings.data.labels == ["fine", "ill"]
    assert (settings.data.share, settings.data.holds_out) == (1.0, True)
    bare = make(name="bare")
    assert bare.test_data is None
    assert (bare.settings.data.share, bare.settings.data.holds_out) == (0.8, True)
    assert bare.settings.data.text_column == "note"
    assert "# label_column" in bare.settings_file.read_text()
    commented = bare.settings_file.read_text()
    bare.settings_file.write_text(commented.replace("# address", "address"))
    assert Home.open(bare.path).address == "umbel.example.org:9443"


def test_a_new_folder_has_the_default_policy(make):
    assert Policy.read(make().policy) == Policy()


def test_a_name_may_differ_from_the_folders(make, consortium, tmp_path):
    card = consortium.path / "consortium.json"
    home = Home.create(tmp_path / "my folder", card, tmp_path / "notes.csv", name="st-mary")
    assert home.name == "st-mary"
    assert home.request_file == tmp_path / "st-mary.request.json"
    with pytest.raises(ConsortiumError, match="letters from a to z, digits"):
        Home.create(tmp_path / "another folder", card, tmp_path / "notes.csv")
    assert not (tmp_path / "another folder").exists()


def test_a_relative_path_starts_at_the_folder(make, data):
    home = make()
    text = home.settings_file.read_text()
    home.settings_file.write_text(text.replace(json.dumps(str(data)), '"../notes.csv"'))
    assert '"../notes.csv"' in home.settings_file.read_text()
    assert Home.open(home.path).data == data


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[server]\nadress = 'x:1'", "did you mean 'address'?"),
        ("[server]\naddress = 'umbel.example.org'", "HOST:PORT"),
        ("[privacy]", "unknown key 'privacy'"),
        ("[", "not valid TOML"),
    ],
)
def test_wrong_settings_are_refused_with_file_key_and_remedy(make, line, words):
    home = make()
    declared = "path = 'x.csv'\ntext_column = 'text'"
    home.settings_file.write_text(f"name = 'st-mary'\n[data]\n{declared}\n{line}\n")
    with pytest.raises(ConsortiumError) as refused:
        Home.open(home.path)
    assert words in str(refused.value)
    assert str(home.settings_file) in str(refused.value)


def test_keys_are_never_overwritten(make):
    home = make()
    before = home.identity.read_bytes()
    with pytest.raises(FileError, match="exists already"):
        make()
    assert home.identity.read_bytes() == before


def test_a_folder_without_its_key_or_of_another_consortium_is_refused(make, tmp_path):
    with pytest.raises(ConsortiumError, match="umbel client init"):
        Home.open(tmp_path)
    home = make()
    other = Consortium.create(tmp_path / "banks", "localhost", 9443, Limits())
    other.card.write(home.card_file)
    with pytest.raises(ConsortiumError, match="belongs to another consortium"):
        Home.open(home.path)
    home.identity.unlink()
    with pytest.raises(ConsortiumError, match="is missing"):
        Home.open(home.path)


def test_data_without_the_named_column_is_refused_before_anything_is_made(make, tmp_path):
    with pytest.raises(DataError, match="Did you mean 'note'"):
        make(text_column="notes")
    with pytest.raises(DataError, match="no data file"):
        make(data=tmp_path / "nothing.csv")
    assert not (tmp_path / "st-mary").exists()
    assert not (tmp_path / "st-mary.request.json").exists()


def written(path, rows):
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.mkdir()
        with pa.ipc.new_stream(str(path / "data.arrow"), table.schema) as stream:
            stream.write_table(table)
        (path / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    return path


@pytest.mark.parametrize("file", ["notes.jsonl", "notes.parquet", "dataset"])
def test_columns_are_found_in_every_format(make, tmp_path, file):
    path = written(tmp_path / file, [{"note": "all is well", "class": n} for n in (1, 2)])
    with pytest.raises(DataError, match="has no column 'label'"):
        make(data=path, text_column="note", label_column="label")
    assert make(data=path, text_column="note", label_column="class").data == path


@pytest.mark.parametrize(
    ("file", "content"),
    [("a.csv", b""), ("a.jsonl", b"{"), ("a.jsonl", b"1"), ("a.parquet", b"x"), ("a.xls", b"x")],
)
def test_data_that_cannot_be_read_is_one_sentence(make, tmp_path, file, content):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=file):
        make(data=tmp_path / file)


@pytest.fixture
def connect():
    """A TLS connection over loopback, with what an owner's and an operator's folder hold."""

    def to(consortium, home, name):
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(consortium.server_certificate, consortium.server_key)
        client = ssl.create_default_context(cafile=home.ca_certificate)
        client.verify_flags |= ssl.VERIFY_X509_STRICT
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def serve():
                plain, _ = listener.accept()
                with plain:
                    try:
                        with server.wrap_socket(plain, server_side=True) as secure:
                            secure.sendall(b"welcome")
                    except OSError:
                        return

            thread = threading.Thread(target=serve)
            thread.start()
            try:
                plain = socket.create_connection(listener.getsockname())
                with plain, client.wrap_socket(plain, server_hostname=name) as secure:
                    return secure.recv(7)
            finally:
                thread.join()

    return to


def test_an_owner_reaches_the_server_that_its_card_names(make, consortium, connect):
    assert connect(consortium, make(), "localhost") == b"welcome"


def test_an_owner_refuses_a_server_of_another_name(make, consortium, connect):
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        connect(consortium, make(), "umbel.example.org")


def test_an_owner_refuses_an_expired_certificate(make, consortium, connect):
    home = make()
    consortium.renew_certificate(now=datetime.now(UTC) - timedelta(days=826))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        connect(consortium, home, "localhost")
