"""Messages and documents are plain English: shapes that were once this project's own stay out of them.

Each pattern is wrong in every sentence. What is often right ("where" for a place, "beside") has no pattern:
a review reads for that.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {"tests", "benchmarks", "examples", "build", "dist", "runs", "requirements"}
PATTERNS = {
    r"(?<![Tt]here )\bis no (?:owner|legal|valid|such|member|run|name|kind|number|text)\b": '"is not a"',
    r"\bso many\b(?!(?: [^ .;]+){1,6} that\b)": '"this many", "at most ..."',
    r"\bhad back\b": '"reconstructed", "restored"',
    r"\b[Ww]hoever\b": '"anyone who", or who it is',
    r"\b[Ww]here (?:no|nobody|nothing|none)\b": '"if no ..."',
    r"\b[Nn]one where\b": '"None if"',
    r"\banew\b": '"again", "new"',
    r"\b(?:is|are) to be \w+ed\b": '"must be", or who does it',
    r"\bone a (?:core|GPU|value|client|round|step|line|row)\b": '"per"',
    r"\bthe cause is mended\b": '"fix the cause"',
    r"\bfor want of\b": '"because there is no"',
    r"\bgoes on with\b": '"continues", "resumes"',
    r"\bbut for (?:the|a|an|its|their)\b": '"except"',
    r"\bis none\b(?<!there is none)(?<!There is none)": '"is not one"',
    r"\b[Tt]he very (?:same|one)\b": '"the same"',
    r"\bin the place of\b": '"instead of"',
    r"\bby way of\b": '"through"',
    r"\bmade ready\b": '"prepared"',
    r"\bnobody need\b": '"nobody has to"',
}
ANY = re.compile("|".join(PATTERNS))


def literals(source):
    """What a program's user may read: strings with a blank that are no docstrings; holes are ``{}``."""
    tree = ast.parse(source)
    own, inside = set(), set()
    for node in ast.walk(tree):
        for child in (
            getattr(node, "body", []) if isinstance(getattr(node, "body", []), list) else []
        ):
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                own.add(child.value)
        if isinstance(node, ast.JoinedStr):
            inside.update(part for part in ast.walk(node) if part is not node)
    for node in ast.walk(tree):
        if node in inside or node in own:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def unfilled(source):
    """Strings of a function with ``{name}`` of a name that it has: an ``f`` before them was forgotten."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        inside = list(ast.walk(function))
        has = {node.arg for node in inside if isinstance(node, ast.arg)}
        has |= {n.id for n in inside if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        for node in inside:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for name in re.findall(r"\{(\w+)(?:[.\[!:][^{}]*)?\}", node.value):
                    if name in has:
                        yield node.lineno, name


def programs():
    rooms = [r for r in ROOT.iterdir() if r.is_dir() and r.name[0] != "." and r.name not in OUTSIDE]
    return sorted([*ROOT.glob("*.py"), *(file for room in rooms for file in room.rglob("*.py"))])


def texts():
    for path in programs():
        for line, text in literals(path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(ROOT)}:{line}", text
    for path in sorted(ROOT.glob("strategies/**/*.py")):
        # ``umbel strategies`` prints them.
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.get_docstring(node) or ""
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]):
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for path in sorted(ROOT.glob("reports/templates/*.html")):
        code = r"\{%.*?%\}|\{\{.*?\}\}"
        yield (
            str(path.relative_to(ROOT)),
            re.sub(code, "", path.read_text(encoding="utf-8"), flags=re.S),
        )


def found_in(text):
    plain = " ".join(text.split())
    if not ANY.search(plain):
        return []
    return [(m.group(), better) for p, better in PATTERNS.items() for m in re.finditer(p, plain)]


def test_no_message_and_no_document_has_a_shape_that_is_always_wrong():
    wrong = [
        f"{place}: {said!r}; write {better}"
        for place, text in texts()
        for said, better in found_in(text)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "'x' is no owner's folder",
        "so many jobs wait",
        "its secret could not be had back",
        "whoever sees\nit",
        "None where nothing was asked",
        "sign the job anew",
        "processes: one a core",
    ],
)
def test_a_wrong_shape_is_found(text):
    assert found_in(text)


def test_messages_are_read_whole_and_docstrings_are_not():
    source = 'def f(x):\n    """Whoever reads."""\n    raise ValueError(f"{x} is no "\n        "owner")\n'
    assert list(literals(source)) == [(3, "{} is no owner")]


def test_no_message_shows_the_name_of_what_it_should_say():
    assert [
        f"{path.relative_to(ROOT)}:{line}: {{{name}}}"
        for path in programs()
        for line, name in unfilled(path.read_text(encoding="utf-8"))
    ] == []


def test_a_forgotten_f_is_found():
    source = 'def f(x, y):\n    z = 1\n    raise ValueError("a {x.name} of " "{z:.1f}" f"{y}")\n'
    assert {name for _, name in unfilled(source)} == {"x", "z"}
    assert not list(unfilled(source.replace('"a', 'f"a').replace('"{z', 'f"{z')))
