"""``python -m umbel.cli``: the same as ``umbel``."""

from . import main

main()
