"""What Flower's processes write is for people who read a file: no colours, no pages of HTTP."""

import subprocess
import sys

import httpx
import pytest

from umbel.client import service
from umbel.client.home import Home
from umbel.consortium.authority import Consortium
from umbel.errors import DeploymentError
from umbel.flower.tasks import in_words
from umbel.privacy.secagg.roster import Limits

PAGE = "https://developer.mozilla.org/en-US/docs/Web/HTTP/Status"


def test_no_colour_is_in_a_log_of_flowers():
    code = (
        "import logging\nfrom umbel.flower import quiet_logs\nquiet_logs()\n"
        "logging.getLogger('flwr').error('the reason')\nlogging.getLogger('flwr').info('chat')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "the reason" in done.stderr
    assert "\x1b" not in done.stderr
    assert "chat" not in done.stderr


@pytest.mark.parametrize(("status", "said"), [(401, "its run is over"), (503, "HTTP 503")])
def test_a_page_of_http_is_said_in_words(status, said):
    request = httpx.Request("POST", "http://127.0.0.1:1/x")
    response = httpx.Response(status, request=request)
    with pytest.raises(DeploymentError, match=said) as caught, in_words("The SuperNode"):
        response.raise_for_status()
    assert "http" not in str(caught.value)


def test_a_node_that_cannot_be_reached_is_said_in_words():
    with pytest.raises(DeploymentError, match="does not answer"), in_words("The SuperNode"):
        raise httpx.ConnectError("refused")


@pytest.fixture
def home(tmp_path):
    made = Consortium.create(tmp_path / "operator", "localhost", 9443, Limits())
    data = tmp_path / "notes.csv"
    data.write_text("text,label\n" + "".join(f"note {n},{'ab'[n % 2]}\n" for n in range(9)))
    home = Home.create(tmp_path / "st-mary", made.path / "consortium.json", data)
    (home.path / "node").mkdir()
    return home


@pytest.mark.parametrize(
    ("logged", "said"),
    [
        (
            f"Client error '401 Unauthorized' for url 'x'. For more: {PAGE}/401",
            "does not know st-mary",
        ),
        ("[code: 2004] no such node", "is not a member yet"),
        ("certificate verify failed: expired (x)", "certificate is refused"),
        ("The disk is full.", ": The disk is full (all of it:"),
    ],
)
def test_why_a_node_ended_is_one_line_without_pages(home, logged, said):
    stamp = "2026-11-27 08:18:26,289"
    text = f"WARNING {stamp}:   EXPERIMENTAL: old\nERROR {stamp}:     {logged}\n"
    (home.path / "node" / "log").write_text(text)
    reason = service.reason(home)
    assert said in reason
    assert PAGE not in reason
    assert "\n" not in reason
