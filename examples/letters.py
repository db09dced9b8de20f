"""Letters of hospitals, in which names, drugs, doses and diagnoses are marked, for examples/fetch.py.

The letters are invented, by a fixed seed: no person is in them. Each hospital has sentences, names and drugs
that others have not, and some words are a name in one letter and none in another.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

HOSPITALS = ("riverside", "northgate", "st-anne", "harbour", "elmwood", "westfield")
LETTERS = 300
"""Of each hospital."""


def listed(names: str, between: str) -> list[str]:
    return names.split(between)


FIRST = listed(
    "Ann Ben Clara David Ella Frank Grace Henry Iris John Karen Leo Maria Noah Olga Paul Ruth Sam Tina "
    "Victor Wendy Yusuf Zoe Amir Bianca Chen Dilip Esther Fatima Goran",
    " ",
)
LAST = listed(
    "May Brown Stone Cooper Young Marsh Field Rivers Long Price Hope Winter Miller Novak Rossi Schmidt "
    "Okafor Tanaka Larsen Dubois Silva Kowalski Haddad Nguyen Murphy Petrov Iversen Castillo Fischer Walsh",
    " ",
)
SYLLABLES = ("ve", "lo", "tra", "mi", "do", "pra", "ze", "cu", "na", "fe", "ri", "so", "bu", "ka")
ENDINGS = ("pril", "statin", "zole", "mab", "cillin", "olol", "formin", "sartan")
CONDITIONS = listed(
    "asthma,type 2 diabetes,atrial fibrillation,migraine,chronic kidney disease,pneumonia,iron deficiency,"
    "high blood pressure,gout,heart failure,a fractured wrist,hypothyroidism,psoriasis,sinusitis,anaemia",
    ",",
)
DOSES = (
    "{n} mg",
    "{n} mg twice a day",
    "{n} ml",
    "half a tablet",
    "{n} units at night",
    "one {n} mg tablet",
)

SENTENCES = (
    "{NAME} was seen in clinic with {DIAGNOSIS}.",
    "We started {DRUG} at {DOSE}.",
    "Thank you for referring {NAME}, who has had {DIAGNOSIS} since the winter.",
    "{DRUG} was stopped because of a rash.",
    "There is a long history of {DIAGNOSIS}, but the price of treatment was never an issue.",
    "I would be grateful if Dr {NAME} could review the dose of {DRUG}.",
    "The patient may take {DOSE} of {DRUG} if the pain is worse in the field or at work.",
    "Mrs {NAME} asks whether {DRUG} can be taken with {DRUG}.",
    "No sign of {DIAGNOSIS} today; the young patient is well.",
    "Please continue {DRUG} {DOSE} and see us again in May.",
    "Discussed with {NAME} and {NAME}: they hope to avoid surgery for {DIAGNOSIS}.",
    "On examination a brown mark of two cm, no stone was felt.",
    "The dose was raised to {DOSE} by {NAME}.",
    "Family history: {DIAGNOSIS} in the mother, {DIAGNOSIS} in a brother.",
    "Seen by the nurse; nothing to report.",
    "Reviewed: {NAME}. Diagnosis: {DIAGNOSIS}. Plan: {DRUG}, {DOSE}.",
    "He walks a mile along the rivers near the marsh without chest pain.",
    "{NAME} reports that {DIAGNOSIS} has improved on {DRUG}.",
)
_SLOT = re.compile(r"\{([A-Z]+)\}")


class Hospital:
    """What one hospital writes about, and how."""

    def __init__(self, name: str) -> None:
        self.draw = random.Random(f"letters of {name}")
        self.sentences = self.draw.sample(SENTENCES, 12)
        self.first = self.draw.sample(FIRST, 16)
        self.last = self.draw.sample(LAST, 14)
        self.conditions = self.draw.sample(CONDITIONS, 10)
        self.drugs = [
            "".join(self.draw.sample(SYLLABLES, 2)) + self.draw.choice(ENDINGS) for _ in range(20)
        ]

    def _filled(self, slot: str) -> str:
        draw = self.draw
        if slot == "NAME":
            first, last = draw.choice(self.first), draw.choice(self.last)
            return draw.choice((f"{first} {last}", f"{first[0]}. {last}", last))
        if slot == "DRUG":
            drug = draw.choice(self.drugs)
            return drug.capitalize() if draw.random() < 0.5 else drug
        if slot == "DOSE":
            return draw.choice(DOSES).format(n=draw.choice((5, 10, 20, 25, 40, 50, 100, 250)))
        return draw.choice(self.conditions)

    def letter(self) -> dict[str, Any]:
        """Its text, and where what is marked stands in it, in characters."""
        text, spans = "", []
        for sentence in self.draw.sample(self.sentences, self.draw.randint(1, 3)):
            text += " " if text else ""
            at = 0
            for slot in _SLOT.finditer(sentence):
                text += sentence[at : slot.start()]
                filled = self._filled(slot[1])
                spans.append({"start": len(text), "end": len(text) + len(filled), "label": slot[1]})
                text += filled
                at = slot.end()
            text += sentence[at:]
        return {"text": text, "label": spans}


def letters() -> Iterator[dict[str, Any]]:
    for name in HOSPITALS:
        hospital = Hospital(name)
        for _ in range(LETTERS):
            yield {**hospital.letter(), "hospital": name}
