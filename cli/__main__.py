"""``python -m umbel.cli``: the same as ``umbel``."""

from .commands import main

main()
