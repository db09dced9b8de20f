"""Proxies around a deployment: those of the environment are not used, the one of client.toml is."""

import pytest

pytestmark = pytest.mark.slow


def test_a_run_beside_a_proxy_that_never_answers_and_through_one_that_does(
    deploy, deployed_job, silent_proxy, connecting_proxy
):
    deployment, proxy = deploy(deployed_job(training={"rounds": 1})), connecting_proxy()
    for name in ("server", *deployment.owners):
        deployment.environments[name] = silent_proxy.environment
    home = deployment.owners["client-0001"]
    text = home.settings_file.read_text()
    assert "[server]\n" in text
    home.settings_file.write_text(text.replace("[server]\n", f'[server]\nproxy = "{proxy.url}"\n'))
    run = deployment.start().place(name="proxies")
    assert deployment.finished(run)["rounds"] == 1
    assert set(proxy.asked) == {home.address}
    assert silent_proxy.asked == 0
