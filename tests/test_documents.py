"""What documents tell a reader to type exists: commands, options, and as many words as they take."""

import itertools
import re
import shlex
from pathlib import Path

import pytest
import typer

from umbel.cli.commands import app

ROOT = Path(__file__).parents[1]
UMBEL = typer.main.get_command(app)
PAGES = [*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")]
LAST = re.compile(r"[;|>&]|\.\.\.|…|[│─]")
"""What follows is another command, prose or a picture."""


def commands_of(text):
    """Each ``umbel ...`` in a block of code, or in backquotes."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M)
    lines = [line.split(" #")[0] for b in blocks for line in b.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    spans = [" ".join(span.split()) for span in re.findall(r"`(umbel [^`]+)`", prose)]
    # One is no command: what a ledger's hashes begin with.
    spans = [span for span in spans if span != "umbel privacy ledger"]
    return spans + [
        m[1] for line in lines if (m := re.match(r"(?:\w+=\S+ )*(umbel [a-z].*)", line))
    ]


def resolved(words):
    """The command that they name, its path, and the words that are left."""
    command, path = UMBEL, ["umbel"]
    while hasattr(command, "commands"):
        name = words[0] if words and words[0] in command.commands else getattr(command, "first", "")
        if not name:
            break
        words = words[1:] if words and words[0] == name else words
        command = command.commands[name]
        path.append(name)
    return command, path, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_exists_and_takes_these_words(page):
    for text in commands_of(page.read_text()):
        words = shlex.split(LAST.split(text)[0].rstrip(".:, "))[1:]
        command, path, words = resolved(words)
        if hasattr(command, "commands"):
            assert not words or words[0].startswith("-"), f"{text}: {path} has no such command"
            continue
        options = {o: p for p in command.params for o in (*p.opts, *p.secondary_opts)}
        wanted = [p for p in command.params if p.param_type_name == "argument"]
        given, rest = 0, iter(words)
        for word in rest:
            name, equals, _ = word.partition("=")
            if not word.startswith("--"):
                given += 1
            elif name != "--help":
                assert name in options, f"{text}: {path} has no {name}"
                if not equals and not options[name].is_flag:
                    next(rest, None)  # prose may name the option alone
        most = 99 if any(p.nargs != 1 for p in wanted) else len(wanted)
        assert given <= most, f"{text}: {path} takes {most} words"


def anchors(text):
    """Where a link to the page may point: its headings as a site names them, and ``<a id>``."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    found = set(re.findall(r'<a id="([^"]+)"', prose))
    for heading in re.findall(r"^#+ (.+)$", prose, re.M):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        # A second heading of the same words gets a number.
        again = (f"{name}-{n}" for n in itertools.count(1))
        found.add(name if name not in found else next(a for a in again if a not in found))
    return found


def dead_links(page, text):
    """Links of a page, at `page`, to files that are not there, or to places that they lack."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    dead = []
    for link in re.findall(r"\]\(\s*(?!\w+:)([^)\s]+)\s*\)", prose):
        file, _, place = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists():
            dead.append(link)
        elif place and target.suffix == ".md":
            of = text if target == page else target.read_text(encoding="utf-8")
            dead += [link] if place not in anchors(of) else []
    return dead


@pytest.mark.parametrize(
    "page",
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_every_link_within_the_documents_has_its_file_and_place(page):
    assert not dead_links(page, page.read_text(encoding="utf-8"))


def test_a_dead_link_is_found():
    page = ROOT / "docs" / "recipe.md"
    text = "# Of a heading\n[a](#of-a-heading) [b](ledger.md) [c](#gone)\n[d](recipe.md#gone) [e](gone.md)"
    assert dead_links(page, text) == ["#gone", "recipe.md#gone", "gone.md"]


TRANSLATED = [
    ("README.md", "README.zh-CN.md"),
    ("docs/quick-start.md", "docs/quick-start.zh-CN.md"),
]


def typed(text):
    """What a reader types, block by block, without comments."""
    blocks = re.findall(r"^```(?:bash|python)\n(.*?)^```", text, re.S | re.M)
    return [[line.split("  #")[0].rstrip() for line in b.splitlines()] for b in blocks]


@pytest.mark.parametrize(("page", "translation"), TRANSLATED, ids=lambda page: Path(page).name)
def test_a_translated_page_has_the_same_commands_and_headings(page, translation):
    first, second = ((ROOT / one).read_text(encoding="utf-8") for one in (page, translation))
    assert typed(second) == typed(first) != []
    levels = [
        re.findall(r"^(#+) ", re.sub(r"^```.*?^```", "", t, flags=re.S | re.M), re.M)
        for t in (first, second)
    ]
    assert levels[0] == levels[1]
    for link in re.findall(r"\]\((?!https:)([^)#]+)", second):
        assert ((ROOT / translation).parent / link).exists(), link
