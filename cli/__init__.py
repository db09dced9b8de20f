"""The command line: one small function per command, one module per group of them, and no logic.

``commands`` holds those that need no deployment, and mounts the others.
"""

from .commands import main

__all__ = ["main"]
