"""Whether the server is there, is the consortium's, and keeps from the network what does not belong there."""

from __future__ import annotations

from collections.abc import Iterator

from .connection_probe import Server, Unusable, clock
from .finding import Finding
from .home import Home

_FLEET, _CONTROL = "/v1/fleet/activate-node", "/v1/control/list-runs"


def server(home: Home) -> Iterator[Finding]:
    name, _, digits = home.address.rpartition(":")
    proxy = home.settings.server.proxy
    server = Server(name.strip("[]"), int(digits), home.ca_certificate, proxy)
    try:
        days = server.days_left()
        fleet, control = server.ask(_FLEET), server.ask(_CONTROL)
    except Unusable as error:
        yield Finding("server", "bad", str(error), error.remedy)
        yield Finding("clock", "warning", "not compared, because the server did not answer",
                      "Make sure that NTP sets this machine's clock.")  # fmt: skip
        return
    yield Finding(
        "certificate", "ok" if days >= 30 else "warning", f"valid, days left: {days}",
        "" if days >= 30 else "Remind the operator to renew it: umbel consortium renew.",
    )  # fmt: skip
    if fleet.status == 404 or fleet.status >= 500:
        yield Finding(
            "server", "warning", f"{home.address} answers with status {fleet.status}",
            "Ask the operator whether umbel server runs behind this address.",
        )  # fmt: skip
    else:
        yield Finding("server", "ok", f"{home.address} answers")
    yield clock(fleet)
    if control.status == 404:
        yield Finding("control API", "ok", "is not open to the network")
    else:
        yield Finding(
            "control API", "warning",
            f"{home.address} answers requests to control it (status {control.status})",
            "Tell the operator: only umbel server's own public port belongs on the network.",
        )  # fmt: skip
