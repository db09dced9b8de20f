"""Pictures as a network takes them in: decoded, turned upright, cut to a square, scaled, and normalised."""

from __future__ import annotations

import base64
import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from ..errors import ModelError
from .inputs import Inputs
from .network import Batch
from .picture_costs import slow_pictures
from .reading.picture_files import is_picture, picture_of
from .reading.picture_sizes import open_picture

if TYPE_CHECKING:
    from ..job import Job, ModelSpec

LEAST_SIDE = 2
_USUAL_SIDE = 224
_SETTINGS = "preprocessor_config.json"


class Pictures(Inputs):
    """Squares of red, green and blue: a row is uint8[side * side * channels], by line, pixel and channel.

    A picture is turned as its EXIF says, put on white if it is transparent, cut to the square in its middle,
    and scaled to the side that the job or else the base model says. Colours are scaled and normalised as the
    base model's ``preprocessor_config.json`` says, by 0.5 and 0.5 if it has none.

    Guarantee: a row follows from the picture's own bytes. Decoding takes memory for
    ``picture_limits.MOST_PIXELS`` at most, and time as ``picture_sizes.open_picture`` says.
    """

    dtype = np.uint8

    def __init__(self, side: int, channels: int, settings: dict[str, Any]) -> None:
        self.side, self.channels = side, channels
        self._mean = _numbers(settings.get("image_mean", 0.5), channels)
        self._deviation = _numbers(settings.get("image_std", 0.5), channels)
        self._scale = float(settings.get("rescale_factor", 1 / 255))
        self._filter = int(settings.get("resample", Image.Resampling.BICUBIC))

    @classmethod
    def load(cls, folder: Path) -> Self:
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            path = folder / _SETTINGS
            settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            channels = int(config.get("num_channels", 3))
            return cls(_side(config, settings), channels, settings)
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise ModelError(
                f"{folder} does not say how its pictures are read (config.json, {_SETTINGS}): {error}. "
                "Download the model again."
            ) from None

    def as_asked(self, model: ModelSpec) -> Self:
        """With the job's ``model.image_size``, if it has one."""
        found = copy.copy(self)
        found.side = model.image_size or self.side
        return found

    @property
    def numbers(self) -> int:
        return self.side * self.side * self.channels

    def record(self, given: str) -> str:
        """Of the picture at this path; what is a record already stays."""
        return picture_of(Path(given)) if is_picture(given) else given

    def encode(self, records: Sequence[str], limit: int, *, ends: bool = False) -> list[np.ndarray]:
        return [self._row(base64.b64decode(record, validate=True)) for record in records]

    def _row(self, data: bytes) -> np.ndarray:
        with open_picture(data) as opened:
            width, height = opened.size
            if min(width, height) < LEAST_SIDE:
                raise ValueError(
                    f"a picture of {width} x {height} pixels, in which nothing is seen"
                )
            upright = ImageOps.exif_transpose(opened)
            found = _coloured(upright, self.channels)
        width, height = found.size
        edge = min(width, height)
        left, top = (width - edge) / 2, (height - edge) / 2
        box = (left, top, left + edge, top + edge)
        scaled = found.resize((self.side, self.side), Image.Resampling(self._filter), box)
        return np.asarray(scaled, np.uint8).reshape(-1)

    def collate(
        self, rows: Sequence[np.ndarray], device: torch.device, length: int | None
    ) -> Batch:
        size = (len(rows), self.side, self.side, self.channels)
        pixels = torch.from_numpy(np.stack(rows).reshape(size)).to(device).float()
        mean, deviation = (
            torch.tensor(values, device=device) for values in (self._mean, self._deviation)
        )
        values = (pixels * self._scale - mean) / deviation
        return {"pixel_values": values.permute(0, 3, 1, 2).contiguous()}

    def invented(self, lengths: Sequence[int], seed: int = 0) -> list[np.ndarray]:
        """Of noise, whatever the lengths."""
        generator = np.random.default_rng(seed)
        return [generator.integers(0, 256, self.numbers, np.uint8) for _ in lengths]

    def costliest(self, largest: int) -> tuple[list[str], float]:
        return slow_pictures(largest)

    def fit(self, backbone: nn.Module, base: str) -> None:
        """Three colours, or shades of grey."""
        if self.channels not in (1, 3):
            raise ModelError(
                f"{base} takes in pictures of {self.channels} channels: Umbel reads colours (3) or shades of "
                "grey (1)."
            )

    def state(self) -> str:
        return f"pictures {self._settings()}"

    def _settings(self) -> dict[str, Any]:
        return {
            "side": self.side,
            "channels": self.channels,
            "mean": self._mean,
            "deviation": self._deviation,
            "scale": self._scale,
            "filter": self._filter,
        }

    def save(self, folder: Path, job: Job) -> None:
        """For transformers' own processors, which read square pictures in the same way."""
        square = {"height": self.side, "width": self.side}
        settings = {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": square,
            "resample": self._filter,
            "do_rescale": True,
            "rescale_factor": self._scale,
            "do_normalize": True,
            "image_mean": self._mean,
            "image_std": self._deviation,
        }
        (folder / _SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    def card(self, job: Job) -> dict[str, Any]:
        return {"pictures": self._settings()}


def _side(config: dict[str, Any], settings: dict[str, Any]) -> int:
    """Pixels of a side, as the base model was trained."""
    for said in (settings.get("crop_size"), config.get("image_size"), settings.get("size")):
        if isinstance(said, dict):
            said = said.get("height") or said.get("shortest_edge")
        if isinstance(said, list):
            said = said[0] if said else None
        if said:
            return int(said)
    return _USUAL_SIDE


def _numbers(said: Any, channels: int) -> list[float]:
    """One for each channel."""
    found = [float(one) for one in said] if isinstance(said, list) else [float(said)] * channels
    if len(found) != channels or not all(map(math.isfinite, found)):
        raise ValueError(f"{said} for {channels} channels")
    return found


def _coloured(picture: Image.Image, channels: int) -> Image.Image:
    """In 8 bits a channel, without transparency."""
    if picture.mode.startswith("I"):  # 16 bits of grey, whatever they are kept in
        shades = np.asarray(picture).astype(np.int64).clip(0, 65535) // 257
        picture = Image.fromarray(shades.astype(np.uint8))
    elif picture.mode == "F":
        raise ValueError("a picture of fractions, whose range nobody knows")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        picture = Image.alpha_composite(white, layer)
    return picture.convert("RGB" if channels == 3 else "L")
