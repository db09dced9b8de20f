"""Flower's SuperNode as Flower made it: started by deployment_agent.py in place of Umbel's."""

from __future__ import annotations

import sys
from importlib import import_module

from umbel.flower import quiet_logs
from umbel.storage.processes import end_with_parent

if __name__ == "__main__":
    address, ca, key, secret, port = sys.argv[1:]
    sys.argv = [
        *("flower-supernode", "--superlink", address, "--root-certificates", ca),
        *("--auth-supernode-private-key", key, "--isolation", "process"),
        *("--superexec-auth-secret-file", secret, "--host", "127.0.0.1", "--port", port),
    ]
    end_with_parent()
    quiet_logs()
    import_module("flwr.supernode.cli.flower_supernode").flower_supernode()
