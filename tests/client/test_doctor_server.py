"""What an owner is told of its server, of proxies on the way, certificates and clocks."""

import socket
from datetime import UTC, datetime, timedelta

import pytest

from umbel.client import connection_probe
from umbel.client.home import Home
from umbel.consortium.authority import Consortium
from umbel.privacy.secagg.roster import Limits

from .examined import found, moved


def test_a_port_where_nobody_listens(home):
    levels, text = found(home, "server")
    assert levels == ["bad"]
    assert "the connection was refused" in text
    assert found(home, "clock")[0] == ["warning"]


def test_a_name_that_does_not_exist(home):
    assert "cannot be resolved" in found(moved(home, "nowhere.invalid:9443"), "server")[1]


def test_a_port_that_stays_silent(home, monkeypatch):
    monkeypatch.setattr(connection_probe, "_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        home = moved(home, f"127.0.0.1:{listener.getsockname()[1]}")
        assert "timed out" in found(home, "server")[1]


def through(home, proxy):
    """The same folder, with a proxy on the way to the server."""
    text = home.settings_file.read_text()
    home.settings_file.write_text(text.replace("[server]\n", f'[server]\nproxy = "{proxy}"\n'))
    return Home(home.path)


def test_a_proxy_on_the_way_is_gone_through(home, consortium, serve, connecting_proxy):
    proxy, port = connecting_proxy(), serve(consortium)
    levels, text = found(through(moved(home, f"localhost:{port}"), proxy.url), "server")
    assert levels == ["ok"], text
    assert set(proxy.asked) == {f"localhost:{port}"}


@pytest.mark.parametrize("refusal", ["403 Forbidden", "407 Proxy Authentication Required"])
def test_a_proxy_that_refuses_is_named_with_its_reason(home, connecting_proxy, refusal):
    proxy = connecting_proxy(refusal)
    levels, text = found(through(home, proxy.url), "server")
    assert levels == ["bad"]
    assert f"the proxy {proxy.url} does not connect to localhost" in text
    assert refusal in text


def test_a_proxy_that_the_environment_names_is_not_used_but_named_if_nobody_answers(
    home, consortium, serve, silent_proxy, monkeypatch
):
    for name, value in silent_proxy.environment.items():
        monkeypatch.setenv(name, value)
    assert found(moved(home, f"localhost:{serve(consortium)}"), "server")[0] == ["ok"]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        home = moved(home, f"127.0.0.1:{nobody.getsockname()[1]}")
        assert "[server] proxy in client.toml" in found(home, "server")[1]
    assert silent_proxy.asked == 0


def test_a_server_without_tls(home, serve):
    assert "but not TLS" in found(moved(home, f"localhost:{serve()}"), "server")[1]


def test_an_expired_certificate_is_told_with_its_date(home, consortium, serve):
    began = datetime.now(UTC) - timedelta(days=826)
    consortium.renew_certificate(now=began)
    levels, text = found(moved(home, f"localhost:{serve(consortium)}"), "server")
    assert levels == ["bad"]
    assert f"has expired ({began + timedelta(days=825):%Y-%m-%d}" in text
    assert "umbel consortium renew" in text


def test_a_certificate_from_the_future_makes_the_clock_suspect(home, consortium, serve):
    consortium.renew_certificate(now=datetime.now(UTC) + timedelta(days=2))
    text = found(moved(home, f"localhost:{serve(consortium)}"), "server")[1]
    assert "is not valid yet" in text
    assert "Check this machine's clock" in text


def test_a_certificate_for_another_host_name(home, consortium, serve):
    text = found(moved(home, f"127.0.0.2:{serve(consortium, host='127.0.0.2')}"), "server")[1]
    assert "is not for the host name 127.0.0.2 but for localhost, 127.0.0.1" in text


def test_the_server_of_another_consortium(home, serve, tmp_path):
    other = Consortium.create(tmp_path / "banks", "localhost", 9443, Limits())
    assert "unknown authority" in found(moved(home, f"localhost:{serve(other)}"), "server")[1]


def test_a_certificate_that_ends_soon_is_a_warning(home, consortium, serve):
    consortium.renew_certificate(now=datetime.now(UTC) - timedelta(days=815))
    levels, text = found(moved(home, f"localhost:{serve(consortium)}"), "certificate")
    assert levels == ["warning"]
    assert "days left: 9" in text


@pytest.mark.parametrize(
    ("seconds", "level", "words"),
    [
        (5, "ok", "within 30 s"),
        (-120, "warning", "ahead of"),
        (3600, "bad", "behind"),
    ],
)
def test_a_clock_that_differs_from_the_servers(home, consortium, serve, seconds, level, words):
    port = serve(consortium, ahead=timedelta(seconds=seconds))
    levels, text = found(moved(home, f"localhost:{port}"), "clock")
    assert levels == [level]
    assert words in text


def test_a_server_that_is_none_of_ours_or_lets_itself_be_controlled(home, consortium, serve):
    port = serve(consortium, fleet=404, control=405)
    home = moved(home, f"localhost:{port}")
    assert found(home, "server")[0] == ["warning"]
    levels, text = found(home, "control API")
    assert levels == ["warning"]
    assert "Tell the operator" in text
