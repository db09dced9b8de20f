"""The documentation as a site: every page and every link of it, and the Python face from its docstrings."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

import umbel

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_stands_alone(tmp_path):
    for name in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(name, reason="needs the extra docs")
    command = [sys.executable, str(ROOT / "docs" / "build_site.py"), str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600)
    assert (done.returncode, done.stderr) == (0, "")
    site = tmp_path / "site"
    pages = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    made = {str(page.relative_to(site).with_suffix(".md")) for page in pages}
    for source in (ROOT / "docs").rglob("*.md"):
        path = str(source.relative_to(ROOT))
        assert {path, path.replace("README.md", "index.md")} & made
    api = pages[site / "api.html"]
    assert all(
        'id="umbel.' in api and f'.{name}"' in api for name in umbel.__all__ if name[0] != "_"
    )
    for page, text in pages.items():
        for place in re.findall(r'(?:href|src)="([^"#]+)', text):
            if not re.match(r"[a-z]+:", place) and page.name != "404.html":
                assert (page.parent / unquote(place)).exists(), f"{page.name}: {place}"
        # A browser fetches nothing from elsewhere.
        assert not re.search(r'<(?:script|link)[^>]+(?:src|href)="https?:(?!//squidfunk)', text)
