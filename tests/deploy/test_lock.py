"""The lock files: every package that is installed has one version and the hashes of its files."""

import itertools
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "requirements").glob("*.lock"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def blocks(path):
    """The requirements of a lock file, each with its hashes."""
    text = "".join(line for line in path.open() if not line.startswith("#"))
    found = re.findall(r"^\S.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    return [(Requirement(b.split(" \\")[0]), re.findall(r"--hash=(\S+)", b)) for b in found]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_package_has_one_exact_version_and_hashes(path):
    seen = set()
    for requirement, hashes in blocks(path):
        assert re.fullmatch(r"==[^*]+", str(requirement.specifier)), requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", found) for found in hashes)
        assert hashes
        assert str(requirement) not in seen
        seen.add(str(requirement))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_says_where_packages_come_from(path):
    assert not re.search(r"^\s*-(?!-hash=)|://|@ ", path.read_text(), re.MULTILINE)


def test_the_versions_are_within_the_ranges_of_the_project():
    run, dev, torch = (
        [r for r, _ in blocks(ROOT / "requirements" / f"{name}.lock")]
        for name in ("run", "dev", "torch")
    )
    for locked, ranges in (
        (run + torch, PROJECT["dependencies"]),
        (run + torch + dev, PROJECT["optional-dependencies"]["dev"]),
    ):
        for wanted in map(Requirement, ranges):
            found = [r for r in locked if r.name.lower() == wanted.name.lower()]
            assert found, f"make lock: {wanted} is in no file"
            for requirement in found:
                version = str(requirement.specifier).removeprefix("==")
                assert wanted.specifier.contains(version), f"make lock: {wanted}, not {version}"


def test_tests_run_with_what_owners_install_and_bring_nothing_of_it_themselves():
    """So the files can be installed at the same time, and in any order."""
    names = [
        {r.name.lower() for r, _ in blocks(ROOT / "requirements" / f"{name}.lock")}
        for name in ("run", "dev", "torch")
    ]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(names, 2))


def test_each_build_of_pytorch_is_the_one_that_make_installs():
    (plain, _), (cpu, _) = (
        blocks(ROOT / "requirements" / name)[0] for name in ("torch.lock", "torch-cpu.lock")
    )
    assert f"{plain}+cpu" == str(cpu)
    assert f"TORCH ?= {plain}\n" in (ROOT / "Makefile").read_text()
