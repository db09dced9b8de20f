"""Finds the packages: the checkout's root is ``umbel``, every folder in it with an ``__init__.py`` a room.

Everything else about the package stands in pyproject.toml, which cannot say this of a root.
"""

from setuptools import find_packages, setup

setup(packages=["umbel", *(f"umbel.{name}" for name in find_packages())])
