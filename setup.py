"""Finds the packages: the checkout's root is ``umbel``, every folder in it with an ``__init__.py`` a room.

Everything else about the package stands in pyproject.toml, which cannot say this of a root.
"""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class Modules(build_py):
    """All modules of the packages but this file, which lies among them."""

    def find_package_modules(self, package, package_dir):
        found = super().find_package_modules(package, package_dir)
        return [module for module in found if module[1] != "setup"]


setup(
    packages=["umbel", *(f"umbel.{name}" for name in find_packages())],
    cmdclass={"build_py": Modules},
)
