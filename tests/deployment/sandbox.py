"""Run the command of a systemd unit as systemd would, in a mount namespace of its own.

    unshare --mount --propagation private python sandbox.py UNIT [IGNORED...]

Only what a unit of Umbel says of files, environment and rights; any other directive is an error, so that
none is overlooked.
"""

import ctypes
import os
import pwd
import re
import shlex
import subprocess
import sys
from pathlib import Path

OF_THE_MANAGER = {
    "Restart", "RestartSec", "KillMode", "TimeoutStopSec", "OOMPolicy", "RuntimeDirectoryPreserve",
}  # fmt: skip
API = ("/dev", "/proc", "/sys")
_PR_SET_NO_NEW_PRIVS = 38


def directives(text):
    section = text.split("[Service]")[1].split("[Install]")[0]
    lines = [line for line in section.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def words(value):
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(value)]


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True, timeout=600)


def mounts():
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [line.split()[1].encode().decode("unicode_escape") for line in lines]


def main():
    found = directives(Path(sys.argv[1]).read_text())
    for name in OF_THE_MANAGER:
        found.pop(name, None)
    command = words(found.pop("ExecStart"))
    user = pwd.getpwnam(found.pop("User"))
    environment = {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name,
                   "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}  # fmt: skip
    if "Environment" in found:
        environment |= dict(word.split("=", 1) for word in words(found.pop("Environment")))
    writable = [Path(path) for path in words(found.pop("ReadWritePaths"))]
    if runtime := found.pop("RuntimeDirectory", None):
        place = Path("/run") / runtime
        place.mkdir(mode=int(found.pop("RuntimeDirectoryMode"), 8), exist_ok=True)
        environment["RUNTIME_DIRECTORY"] = str(place)
        writable.append(place)
    assert found.pop("ProtectSystem") == "strict"
    assert found.pop("ProtectHome") == "read-only"
    assert found.pop("PrivateTmp") == "yes"
    for path in writable:
        mount("--bind", str(path), str(path))
    for path in reversed(mounts()):
        inside = any(Path(path).is_relative_to(top) for top in map(Path, (*API, *writable)))
        if not inside:
            subprocess.run(
                ["mount", "-o", "remount,bind,ro", path], stderr=subprocess.DEVNULL, timeout=600
            )
    for path in ("/tmp", "/var/tmp"):
        mount("-t", "tmpfs", "tmpfs", path)
    for path in ("/", "/usr", "/etc", "/var", "/home", user.pw_dir):
        assert not os.access(path, os.W_OK), path
    assert found.pop("NoNewPrivileges") == "yes"
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.umask(int(found.pop("UMask"), 8))
    assert found == {}, f"this test does not know {found}"
    os.chdir("/")
    assert re.match("/", command[0])
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    main()
