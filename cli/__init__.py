"""The command line: one small function per command, one module per group of them, and no logic.

``commands`` holds those that need no deployment, and mounts the others.
"""

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point. Ctrl-C is heard from the first import on."""
    try:
        from .commands import main as command_line

        command_line()
    except KeyboardInterrupt:
        sys.stderr.write("umbel: Stopped.\n")
        sys.exit(130)
