"""Pictures learned: planned, trained with noise, tested, asked about and exported, whatever the network."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from umbel.errors import ModelError
from umbel.learning.loading import load_learner
from umbel.learning.probing.probe import probe
from umbel.learning.tasks import task_for
from umbel.planning.padding import padding_warnings
from umbel.simulations.engine import Options, simulate
from umbel.simulations.rehearsal import rehearse

SIDE = 16
TASK = "image-classification"
LABELS = ["circle", "square"]
CLOSE = 1e-5


def drawn(number, side=SIDE):
    """A circle or a square, by turns, somewhere on a ground of noise."""
    generator = np.random.default_rng(number)
    values = generator.integers(0, 60, (side, side, 3), np.uint8)
    x, y = generator.integers(5, side - 5, 2)
    rows, columns = np.mgrid[:side, :side]
    apart = np.abs(rows - y), np.abs(columns - x)
    inside = np.maximum(*apart) <= 4 if number % 2 else np.hypot(*apart) <= 3
    values[inside] = (250, 250, 40) if number % 2 else (40, 250, 250)
    return Image.fromarray(values)


@pytest.fixture(scope="session")
def drawings(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawings")
    for number in range(240):
        at = root / LABELS[number % 2]
        at.mkdir(exist_ok=True)
        drawn(number).save(at / f"{number}.png")
    (root / "circle" / "broken.png").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """Small networks for pictures, as their folders."""
    import torch
    import transformers as t

    vit = {
        "image_size": SIDE,
        "patch_size": 4,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    stages = {"hidden_sizes": [8, 16], "depths": [1, 1]}
    swin = {
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "window_size": 4,
        "patch_size": 2,
    }
    makers = {
        "vit": lambda: t.ViTModel(t.ViTConfig(**vit)),
        "vit with a head": lambda: t.ViTForImageClassification(t.ViTConfig(**vit)),
        "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**{**vit, "mlp_ratio": 2})),
        "swin": lambda: t.SwinModel(t.SwinConfig(image_size=SIDE, drop_path_rate=0.0, **swin)),
        "convnext": lambda: t.ConvNextModel(
            t.ConvNextConfig(image_size=SIDE, num_stages=2, drop_path_rate=0.0, **stages)
        ),
        "resnet": lambda: t.ResNetForImageClassification(
            t.ResNetConfig(embedding_size=8, layer_type="basic", num_labels=2, **stages)
        ),
    }
    folders = {}
    for name, make in makers.items():
        with torch.random.fork_rng():
            torch.manual_seed(5)
            folders[name] = tmp_path_factory.mktemp("networks") / name
            make().eval().save_pretrained(folders[name])
    return folders


@pytest.fixture
def seen(job_of, networks, drawings):
    def build(name, adapter, pooling="mean", **sections):
        return job_of(
            str(networks[name]),
            task=TASK,
            model={"adapter": adapter, "pooling": pooling, "image_size": SIDE},
            data={"path": str(drawings), "labels": LABELS},
            simulation={"partition": "iid", "clients": 3},
            **sections,
        )

    return build


@pytest.mark.slow
def test_a_rehearsal_with_pictures_comes_to_what_a_simulation_comes_to(seen, tmp_path):
    job = seen(
        "vit",
        "head",
        privacy={"epsilon": 200.0, "delta": 1e-3, "limit": 1000.0},
        training={"rounds": 2, "local_steps": 2, "batch_size": 40},
        encryption={"deadline": 600.0},
        cohort={"deadline": 600.0},
    )
    simulation = simulate(job, Options(run_dir=tmp_path / "run", workers=1, reproducible=True))
    _, result = rehearse(job, tmp_path / "rehearsal")
    assert result["adapter_sha256"] == simulation.read_json("result.json")["adapter_sha256"]


def test_a_folder_of_pictures_is_learned_with_noise(seen, drawings, tmp_path, umbel):
    job = seen(
        "vit",
        "head",
        privacy={"epsilon": 200.0, "delta": 1e-3, "limit": 1000.0},
        training={"learning_rate": 0.1, "batch_size": 40, "local_steps": 6},
    )
    run = simulate(job, Options(run_dir=tmp_path / "run", workers=1, reproducible=True)).path
    result = json.loads((run / "result.json").read_text())
    assert result["exact"]["metrics"]["accuracy"] > 0.75
    card = (run / "adapter" / "README.md").read_text()
    assert 'It sorts pictures into `"circle"`, `"square"`' in card
    assert "pictures like those of the owners" in card
    assert "texts" not in card.partition("## How good it is")[0]
    _, out, _ = umbel("predict", run, "--file", drawings / "square")
    lines = out.splitlines()
    said = [line.split()[0] for line in lines]
    assert len(said) == 120
    assert said.count("square") > 80
    _, out, _ = umbel(
        "predict", run, drawings / "square" / "1.png", drawings / "circle" / "broken.png"
    )
    assert out.splitlines()[1].startswith("-  (")
    table, archive = tmp_path / "named.csv", tmp_path / "some.zip"
    one = drawings / "square" / "1.png"
    (tmp_path / "one.png").write_bytes(one.read_bytes())
    table.write_text("text\none.png\n")
    with zipfile.ZipFile(archive, "w") as file:
        file.write(one, "square/1.png")
    alone = next(line for line in lines if line.endswith(f"{one}")).split()[:2]
    for file, shown in ((table, "data row 1"), (archive, "square/1.png")):
        _, out, _ = umbel("predict", run, "--file", file)
        assert out.split(maxsplit=2) == [*alone, f"{shown}\n"]


def test_pictures_are_not_padded_so_no_plan_says_what_it_costs(seen):
    job = seen("vit", "head").changed({"model.padding": "max_length"})
    assert padding_warnings(job, None, 0.0) == []
    assert padding_warnings(job.model_copy(update={"task": "text-classification"}), None, 2.0)


PRIVATE = [
    ("vit", "head", "mean"),
    ("vit", "lora", "layers"),
    ("vit with a head", "full", "own"),
    ("dinov2", "lora", "mean"),
    ("swin", "head", "mean"),
    ("convnext", "lora", "mean"),
    ("resnet", "head", "mean"),
]


@pytest.mark.parametrize(("name", "adapter", "pooling"), PRIVATE)
def test_pictures_are_independent_and_their_gradients_are_found_one_by_one(
    seen, name, adapter, pooling
):
    job = seen(name, adapter, pooling)
    learner = load_learner(job, 2)
    assert probe(learner, task_for(job, 2)).padding


@pytest.mark.parametrize(
    ("name", "adapter", "why"),
    [
        ("swin", "lora", "one row per example"),
        ("swin", "full", "one row per example"),
        ("convnext", "full", "do not add up"),
        ("resnet", "full", "batch normalisation"),
    ],
)
def test_what_cannot_be_clipped_by_picture_is_refused_in_a_sentence(seen, name, adapter, why):
    job = seen(name, adapter, "own" if name == "resnet" else "mean")
    with pytest.raises(ModelError, match=f"cannot be trained under per-record privacy.*{why}"):
        probe(load_learner(job, 2), task_for(job, 2))


def test_batch_normalisation_never_looks_at_the_batch(seen):
    import torch

    learner = load_learner(seen("resnet", "full", "own"), 2)
    rows = learner.inputs.invented([0] * 4)
    network = learner.network.train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    with torch.no_grad():
        together, alone = network(learner.batch_of(rows)), network(learner.batch_of(rows[:1]))
    assert torch.allclose(together[:1], alone, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())


ANSWERED = [
    *PRIVATE,
    ("vit with a head", "lora", "own"),
    ("convnext", "head", "layers"),
    ("resnet", "full", "own"),
    ("swin", "lora", "layers"),
]


@pytest.mark.slow
def test_the_code_of_a_card_sees_as_umbel_does(job_of, networks, cards, tmp_path, python):
    made = cards.Cards(tmp_path, job_of, [*"abcdefg"])
    files = {
        "0.png": drawn(0),
        "wide.jpg": drawn(1, 40).resize((90, 33)),
        "grey.png": drawn(2).convert("L"),
        "sixteen.png": Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 160),
        "clear.png": drawn(3).convert("RGBA").rotate(45),
        "print.jpg": drawn(4).convert("CMYK"),
    }
    for name, picture in files.items():
        picture.save(tmp_path / name)
    made.texts = [str(tmp_path / name) for name in files]
    for name, adapter, pooling in ANSWERED:
        adapted = made.add(
            f"{name} {adapter} {pooling}",
            str(networks[name]),
            adapter,
            pooling,
            task=TASK,
            model={"image_size": SIDE},
            data={"labels": LABELS},
        )
        drawn(7).save(adapted.parent / "picture.png")
    said = made.outside(python)
    for name in made.predictors:
        assert "error" not in said[name], said[name]["error"]
        for way in ("single", "batch"):
            for found, one in zip(said[name][way], made.inside(name), strict=True):
                assert found == pytest.approx(one.probabilities, abs=CLOSE)
