"""Digits through a packaged vision transformer, by the recipe, beside regression on the same features."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pictures_reading as reading

DATA = Path(__file__).resolve().parent.parent / "examples" / "data"
OWNERS = 10
SIDE = 112
BARS = {math.inf: 1.0, 8.0: 5.0, 2.0: 10.0}
"""Most points below logistic regression, by epsilon."""
MOST_APART = 0.2
"""Points between a folder of PNG files and a table of BMP files of the same pictures."""
MOST_SECONDS = 360.0

ABOUT = f"""\
Runs umbel.simulate as somebody would who sets nothing but the task, the model, its pooling, the size of its
pictures, {OWNERS} owners and the epsilon: 4,000 digits of MNIST for training and 1,000 for the test, dealt by
Dirichlet(0.5), a head on the mean states of three layers of a frozen DINOv2-small at {SIDE} x {SIDE} pixels,
encrypted.
Beside it: scikit-learn's logistic regression on the same features of all training pictures in one place,
standardised, without privacy.

Bars: at most {BARS[math.inf]:g} point below it without privacy, {BARS[8.0]:g} at epsilon 8, {BARS[2.0]:g} at
epsilon 2; the same from a table of the pictures within {MOST_APART:g} points; each run in at most
{MOST_SECONDS:g} seconds on two cores, once features are there. Data: python examples/digits.py. And no
picture may take longer to read than an owner's agent plans for its size, whatever its format (--reading: only
this).
"""


def given(data: Path, model: Path, epsilon: float, side: int) -> dict[str, Any]:
    """What is set; the recipe chooses the rest."""
    privacy = {"privacy.unit": "none"} if math.isinf(epsilon) else {"privacy.epsilon": epsilon}
    return {
        "task": "image-classification",
        "model.base": str(model),
        "model.image_size": side,
        "model.pooling": "layers",
        "data.path": str(data),
        "simulation.clients": OWNERS,
        "simulation.partition": "dirichlet:0.5",
        "simulation.alone": False,
        **privacy,
    }


def reference(values: dict[str, Any], folder: Path) -> float:
    """Accuracy of logistic regression; the features of all owners are kept for the runs."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from umbel.job import Job
    from umbel.learning.features import with_features
    from umbel.simulations.federation import federate
    from umbel.simulations.site import Site, SiteSettings

    federation = federate(Job.compose(None, values))
    site = Site(SiteSettings(federation, folder, folder, reproducible=False))
    learner = site.workplace.learner
    sides: list[list[tuple[np.ndarray, np.ndarray]]] = [[], []]
    for share in federation.shares:
        data = federation.data(share)
        for found, examples in zip(sides, (data.train, data.test), strict=True):
            if len(examples):
                features = np.asarray(with_features(learner, examples).features)
                found.append((features, examples.labels))
    (train, labels), (test, truth) = (
        (np.concatenate([f for f, _ in side]), np.concatenate([y for _, y in side]))
        for side in sides
    )
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    return float(model.fit(train, labels).score(test, truth))


def run(values: dict[str, Any], folder: Path, settings: dict[str, Any]) -> dict[str, float]:
    """Accuracy on all pictures for the test, without the noise of private tests, and seconds."""
    from umbel.simulations.engine import Options, simulate
    from umbel.simulations.first import first_job

    begun = time.monotonic()
    found = simulate(first_job(values | settings), Options(folder, workers=1))
    result = found.read_json("result.json")
    accuracy = float((result.get("exact") or result)["metrics"]["accuracy"])
    return {"accuracy": accuracy, "seconds": round(time.monotonic() - begun, 1)}


def as_tables(pictures: Path, folder: Path) -> dict[str, str]:
    """The same pictures in two Parquet files, as BMP, in the same order; what a job says of them."""
    import pyarrow as pa
    import pyarrow.parquet
    from PIL import Image

    from umbel.learning.reading.picture_files import PictureFolder

    made = {}
    for split, key in (("train", "data.path"), ("test", "data.test_path")):
        table = PictureFolder(pictures).read(None, ["label"], split)
        files = []
        for name in table.columns["file"]:
            file = io.BytesIO()
            Image.open(pictures / str(name)).save(file, "BMP")
            files.append(file.getvalue())
        path = folder / f"{split}.parquet"
        columns = {"text": pa.array(files, pa.binary()), "label": table.columns["label"]}
        pyarrow.parquet.write_table(pa.table(columns), path)
        made[key] = str(path)
    return made


def few(folder: Path) -> tuple[Path, Path]:
    """A hundred digits of scikit-learn and a network of random weights, to see that all of this runs."""
    import torch
    from PIL import Image
    from sklearn.datasets import load_digits
    from transformers import Dinov2Config, Dinov2Model

    found = load_digits()
    for number in range(200):
        part = "test" if number % 5 == 0 else "train"
        place = folder / "few" / part / str(found.target[number])
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((found.images[number] * 15.9).astype(np.uint8))
        picture.save(place / f"{number:03d}.png")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    network = Dinov2Model(Dinov2Config(image_size=28, patch_size=14, **sizes))
    network.eval().save_pretrained(folder / "network")
    return folder / "few", folder / "network"


def measure(folder: Path, *, smoke: bool) -> dict[str, Any]:
    pictures, model, side = DATA / "digits", DATA / "dinov2-small", SIDE
    settings: dict[str, Any] = {}
    if smoke:
        pictures, model = few(folder)
        side, settings = 28, {"training.rounds": 1, "training.local_steps": 1}
    for path in (pictures, model):
        if not path.exists():
            sys.exit(f"{path} is missing; write it with: python examples/digits.py")
    pooled = reference(given(pictures, model, math.inf, side), folder)
    found: dict[str, Any] = {"pooled": pooled, "runs": []}
    tables = as_tables(pictures, folder)
    for epsilon, source in (
        (math.inf, "folder"),
        (math.inf, "table"),
        (8.0, "folder"),
        (2.0, "folder"),
    ):
        values = given(pictures, model, epsilon, side) | (tables if source == "table" else {})
        name = f"{source}-{epsilon:g}"
        figures = run(values, folder / name, settings)
        points = 100 * (pooled - figures["accuracy"])
        privacy = None if math.isinf(epsilon) else epsilon
        found["runs"].append({"from": source, "epsilon": privacy, "points": points, **figures})
        print(line(found["runs"][-1]), file=sys.stderr, flush=True)
    return found


def line(one: dict[str, Any]) -> str:
    privacy = "no privacy" if one["epsilon"] is None else f"epsilon {one['epsilon']:g}"
    return (
        f"{privacy:11s} from a {one['from']:6s} accuracy {one['accuracy']:.3f}, "
        f"{one['points']:5.1f} points below, {one['seconds']:.0f} s"
    )


def missed(found: dict[str, Any]) -> list[str]:
    """The bars that were missed, in words."""
    lines = reading.missed(found["reading"])
    if "runs" not in found:
        return lines
    for one in found["runs"]:
        bar = BARS[one["epsilon"] or math.inf]
        if one["points"] > bar:
            lines.append(f"{line(one)}: more than {bar:g} points below logistic regression")
        if one["seconds"] > MOST_SECONDS:
            lines.append(f"{line(one)}: more than {MOST_SECONDS:g} s")
    folder, table = (one["accuracy"] for one in found["runs"][:2])
    if 100 * abs(folder - table) > MOST_APART:
        lines.append(
            f"a folder {folder:.3f} and a table {table:.3f} are more than {MOST_APART} apart"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--smoke", action="store_true", help="few pictures, one round, no bars")
    parser.add_argument("--reading", action="store_true", help="only the time that reading takes")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    if not options.reading:
        with tempfile.TemporaryDirectory(prefix="umbel-pictures-") as folder:
            os.environ.setdefault("UMBEL_CACHE", f"{folder}/cache")
            found = measure(Path(folder), smoke=options.smoke)
    found["reading"] = reading.measured(reading.FEW_SIDE if options.smoke else reading.SIDE)
    found["missed"] = [] if options.smoke else missed(found)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        if not options.reading:
            print(f"logistic regression, pooled: {found['pooled']:.3f}")
            print(*map(line, found["runs"]), sep="\n")
        print(*map(reading.line, found["reading"]), *found["missed"], sep="\n")
    if options.check and found["missed"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
