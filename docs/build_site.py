"""Builds the documentation site from docs/ and the pages at the root; the Python face from its docstrings.

    make site          (or: python docs/build_site.py [FOLDER])

The pages stay as they are read in the repository. They are copied, with their links; a link to
what is not a page, such as a test or a folder of examples, becomes the name of that file. It needs the extra
`docs`, and no network.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from floors import rooms

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "README.zh-CN.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_SETTINGS = """\
site_name: Umbel
site_description: Private, federated fine-tuning of Hugging Face transformers
docs_dir: pages
use_directory_urls: false
theme:
  name: material
  font: false
  palette:
    - {media: "(prefers-color-scheme: light)", scheme: default, primary: teal}
    - {media: "(prefers-color-scheme: dark)", scheme: slate, primary: teal}
  features: [navigation.sections, navigation.top, content.code.copy, search.highlight]
plugins:
  - search
  - mkdocstrings:
      handlers:
        python:
          paths: [code]
          options:
            docstring_style: null
            heading_level: 2
            members_order: source
            show_source: false
            show_root_heading: true
            show_root_full_path: false
markdown_extensions: [tables, attr_list, md_in_html, admonition, toc: {permalink: true}, pymdownx.superfences]
validation: {links: {anchors: warn, unrecognized_links: warn}}
nav:
"""
_FIRST = ("quick-start", "concepts", "data", "python", "guarantee", "sharp-edges")
"""Of the pages in docs/, what a newcomer reads, in that order."""


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist" / "site").resolve()
    with tempfile.TemporaryDirectory() as made:
        stage = Path(made)
        found = copy_pages(stage / "pages")
        copy_code(stage / "code" / "umbel")
        (stage / "pages" / "api.md").write_text(api(), encoding="utf-8")
        (stage / "mkdocs.yml").write_text(_SETTINGS + navigation(found), encoding="utf-8")
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
        done = subprocess.run(
            [*command, "--site-dir", str(folder)],
            cwd=stage,
            env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},  # of what mkdocs may become
        )
    if done.returncode == 0:
        print(folder / "index.html")
    return done.returncode


def copy_pages(stage: Path) -> list[Path]:
    """Every page, at the place among the others that it has in the repository; their paths there."""
    found = [Path(name) for name in PAGES]
    found += sorted(path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md"))
    for page in found:
        text = (ROOT / page).read_text(encoding="utf-8")
        target = stage / named(page)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(linked(text, page, set(found)), encoding="utf-8")
    shutil.copytree(ROOT / "docs" / "images", stage / "docs" / "images")
    return found


def named(page: Path) -> Path:
    """README.md is the front page."""
    return Path("index.md") if page == Path("README.md") else page


def linked(text: str, page: Path, pages: set[Path]) -> str:
    """The text of a page with its links as they are on the site."""

    def link(found: re.Match[str]) -> str:
        image, label, target = found.groups()
        path, _, anchor = target.partition("#")
        if image or not path or "://" in path or path.startswith("mailto:"):
            return found[0]
        there = Path(os.path.normpath(page.parent / path))
        if there not in pages:
            return label if "`" in label or there.name in label else f"{label} (`{there}`)"
        back = os.path.relpath(named(there), named(page).parent)
        return f"[{label}]({back}{'#' if anchor else ''}{anchor})"

    return _LINK.sub(link, text)


def copy_code(package: Path) -> None:
    """The package alone, under its name: the checkout's root has another one, and tests beside it."""
    package.mkdir(parents=True)
    shutil.copy(ROOT / "__init__.py", package)
    for name, place in rooms().items():
        if place.is_dir():
            skip = shutil.ignore_patterns("__pycache__", "templates")
            shutil.copytree(place, package / name, ignore=skip)
        else:
            shutil.copy(place, package)


def api() -> str:
    """A page of the names that ``import umbel`` gives, each from its docstrings."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    [places] = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_PLACES"
    )
    lines = ["# The Python face", "", "What these do together: [From Python](docs/python.md).", ""]
    for name, module in places.items():
        lines += [f"::: umbel.{module}.{name}", ""]
    return "\n".join(lines)


def navigation(pages: list[Path]) -> str:
    docs = {page.stem: page for page in pages if page.parent == Path("docs")}
    first = [docs.pop(name) for name in _FIRST]
    decisions = [page for page in pages if page.parent.name == "decisions"]
    about = [page for page in pages if page.parent == Path() and page != Path("README.md")]
    lines = ["  - index.md", "  - First steps:", *(f"      - {page}" for page in first)]
    lines += ["  - The Python face: api.md", "  - In depth:"]
    lines += [f"      - {page}" for page in docs.values()]
    lines += ["  - Decisions:", *(f"      - {page}" for page in decisions)]
    lines += ["  - About:", *(f"      - {page}" for page in about)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
