"""An observer's own folder: its key, and the consortium that it pinned."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from ..errors import ConsortiumError
from ..privacy.secagg.keys import Identity
from ..storage.files import new_folder, write_durably
from .card import Card

_MAKE = "Make an observer's folder with: umbel observer init"


class ObserverFolder:
    """A key of the observer's own, and the consortium's card, by which it knows whom it talks to.

    Guarantee: what is read comes from a server whose certificate the pinned card's authority signed, and the
    card changes only along handovers from the keys that were pinned at first. Assumes that the fingerprint of
    that first card was compared with the operator.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, card_path: Path) -> ObserverFolder:
        """A folder with a new key; it is there whole, or not at all."""
        card = Card.read(card_path)
        with new_folder(path) as new:
            card.write(new / "consortium.json")
            write_durably(new / "observer.key", os.urandom(64), secret=True)
        return cls(path)

    @property
    def card_file(self) -> Path:
        return self.path / "consortium.json"

    @property
    def card(self) -> Card:
        if not self.card_file.exists():
            raise ConsortiumError(f"{self.card_file} is missing. {_MAKE}")
        return Card.read(self.card_file)

    @cached_property
    def key(self) -> Identity:
        file = self.path / "observer.key"
        try:
            return Identity(file.read_bytes())
        except (OSError, ValueError) as error:
            raise ConsortiumError(f"{file} cannot be used: {error}. {_MAKE}") from None

    def trust(self, newest: Card) -> bool:
        """Go by a newer card of the same consortium; whether its keys are others than the known ones.

        Raises as ``Card.check_same`` does, and then changes nothing.
        """
        card = self.card
        card.check_same(newest)
        followed = card.after(newest.handovers)
        if followed is not card:
            followed.write(self.card_file)
        return followed is not card
