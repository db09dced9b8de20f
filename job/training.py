"""What is trained, on which columns, by which steps: model, data, training."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ..tasks.spec import (
    default_adapters,
    task_names,
    task_that_reads,
    tasks_that_end_texts,
    tasks_without_pooling,
    usual_task,
)
from .section import AdapterName, PositiveFloat, PositiveInt, QuantizationName, Section

_CHAT = task_that_reads("dialogues")
_LABELLED, _UNLABELLED = task_names(labelled=True), task_names(labelled=False)
_OWN_CLASS = usual_task(labelled=True).model_class

_ENDING = re.compile(r"[A-Za-z0-9_-]{1,100}(\.[A-Za-z0-9_-]{1,100}){0,15}")


def _check_ending(text: str) -> str:
    # A pattern of the job's choice would be matched against every name, and can take for ever.
    if not _ENDING.fullmatch(text):
        raise ValueError(
            f"{text!r:.80} is not the end of a module's name: give letters, digits, '_', '-' and '.', "
            'such as ["query", "output.dense"]; regular expressions are not accepted'
        )
    return text


ModuleEnding = Annotated[str, AfterValidator(_check_ending)]


class LoraSpec(Section):
    """Low-rank adaptation (Hu et al. 2021)."""

    rank: PositiveInt = Field(8, description="Rank of the two factors.")
    alpha: PositiveFloat = Field(
        16.0, description="Scale: the update is alpha / rank times the product of the factors."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the first factor.")
    target: ModuleEnding | Annotated[list[ModuleEnding], Field(min_length=1, max_length=256)] = (
        Field(
            "all-linear",
            description='Modules that get an adapter: "all-linear" (every linear layer of the base '
            'model), or the ends of module names, such as "query" or ["query", "output.dense"].',
        )
    )


class ModelSpec(Section):
    """Which base model is tuned, and which part of it."""

    base: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2",
        description='Hugging Face hub id, local folder, "package:NAME/FOLDER" (a folder inside an '
        "installed Python package), or a .gguf file in one of the last two.",
    )
    sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 of the base model's files, as umbel plan shows it (base_sha256): a different "
        "model under this name is refused before it is loaded. umbel run fills it in; owners require it.",
    )
    adapter: AdapterName | None = Field(
        None,
        description='"lora": low-rank adapters, and the head of a classifier; "head": only the '
        'head, on frozen features computed once; "full": every weight. Default: '
        f"{default_adapters()}.",
    )
    pooling: Literal["mean", "layers", "own"] = Field(
        "mean",
        description='Classifier head: "mean" puts a linear layer on the mean of the last hidden '
        'states, "layers" on the means of those after a third, two thirds and all of the layers, '
        'scaled to equal length and concatenated, "own" uses the head that the architecture brings '
        f"({_OWN_CLASS}). Not used by {tasks_without_pooling()}.",
    )
    feature_scale: PositiveFloat = Field(
        4.0,
        description="Length to which pooled features are normalised before the linear head.",
    )
    max_length: int = Field(
        64, ge=4, description="The longest input, in tokens; the rest is cut off."
    )
    image_size: int | None = Field(
        None,
        ge=8,
        le=1024,
        description=f"Pixels of a side to which pictures are scaled ({task_that_reads('pictures')} only). "
        "Default: as the base model was trained.",
    )
    template: Literal["own", "plain"] = Field(
        "own",
        description='How a dialogue becomes one text: "own" is the chat template that comes with the base '
        'model, "plain" is built in, for a base model that has none '
        f"({_CHAT} only; docs/models.md).",
    )
    answers: Literal["all", "last"] = Field(
        "all",
        description=f"Which answers of a dialogue are learned and tested ({_CHAT} only).",
    )
    padding: Literal["longest", "max_length"] = Field(
        "longest",
        description='"longest" pads each text to the longest of its batch, "max_length" every text to '
        "max_length, for base models that do not ignore padding. Umbel probes the model and changes "
        "the first into the second if necessary (docs/models.md).",
    )
    quantization: QuantizationName | None = Field(
        None,
        description='Hold the frozen weights of the base model\'s linear layers in fewer bits: "nf4", 4-bit '
        'NormalFloat (QLoRA), or "int8" (pip install \'umbel[quantized]\'). For model.adapter = "lora" or '
        '"head", not with model.pooling = "own". Default: float32.',
    )
    lora: LoraSpec = LoraSpec()


class DataSpec(Section):
    """Where the examples are and which columns hold what, in a simulation. Between machines each owner
    declares that of its own data, and only the keys `labels` and `end_of_text` apply."""

    path: str | None = Field(
        None,
        description="CSV, TSV, JSON, Excel (.xlsx), Parquet or Feather file, also compressed, or "
        "a Hugging Face dataset saved to disk. Relative paths start at the job file's folder. A "
        "simulation needs it; in a deployment each owner declares its own.",
    )
    test_path: str | None = Field(
        None, description="File with held-out examples; without it they are split off `path`."
    )
    text_column: str = Field(
        "text", description="Column with the text; for nested JSON, the path, such as doc.text."
    )
    answer_column: str | None = Field(
        None,
        min_length=1,
        description="Column with the answer, if dialogues are a question in text_column and its answer. "
        f"Default: text_column holds lists of messages ({_CHAT} only).",
    )
    label_column: str | None = Field(
        "label",
        description=f"Column with the class, or with the spans of a text ({_LABELLED} only).",
    )
    encoding: str | None = Field(
        None,
        description='Encoding of CSV and JSON files, such as "cp1252". Default: detected, and reported.',
    )
    quoting: Literal["doubled", "backslash", "none"] | None = Field(
        None,
        description='What a quote within a quoted field of CSV looks like: "" or \\" ("backslash"); or '
        '"none": quotes are plain characters. Default: detected, and reported.',
    )
    sheet: str | None = Field(
        None,
        min_length=1,
        description="Sheet of an Excel workbook. Default: the first (hidden ones apart) with the columns.",
    )
    end_of_text: bool = Field(
        True,
        description="Add the end-of-text token after each text that is not cut off, so that the "
        f"model learns where texts end ({tasks_that_end_texts()} only). Off for passages of longer texts.",
    )
    labels: list[str] | None = Field(
        None,
        description="All classes, or labels of spans, in order. Default: those in the data, sorted (numbers "
        "by value). In a deployment they are required: exactly the classes that the owners declared. Labels "
        "that differ from only one of them in case, width, blanks or leading zeros count as that class.",
    )
    spellings: dict[str, list[str]] = Field(
        {},
        description='Other names of a class, counted as it: {negative = ["neg", "bad"]}. Between machines '
        "each owner declares its own.",
    )
    group_column: str | None = Field(
        None,
        description="Rows that share this value (one document, patient or customer) stay on the "
        "same side of the split between training and test.",
    )
    records_per_group: int = Field(
        8,
        ge=2,
        description="The most records of one group that a step trains on, and that a test counts, if "
        'privacy.unit is "group"; not used otherwise. Between machines each owner declares its own.',
    )
    test_fraction: float = Field(
        0.2, ge=0, lt=1, description="Share of rows (or groups) held out for testing."
    )
    limit: PositiveInt | None = Field(
        None, description="Use at most this many rows of the file (for a quick test)."
    )


class TrainingSpec(Section):
    """Local training at each client."""

    rounds: PositiveInt = Field(10, description="Rounds of training and aggregation.")
    local_steps: PositiveInt = Field(8, description="Optimizer steps of each client in each round.")
    batch_size: PositiveInt = Field(
        64,
        description="Examples per step. Under example-level privacy the expected number: each record "
        "is drawn independently (Poisson sampling), and the step's sum is divided by it. An owner with "
        "fewer records uses all of them in each step, and moves the model by less in proportion.",
    )
    microbatch: PositiveInt | None = Field(
        None,
        description="Examples in one forward and backward pass; gradients are accumulated up to "
        "the batch. Default: 32 (8 on a CPU) if the base model runs in training, the whole batch "
        "for a head.",
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="Local optimizer.")
    learning_rate: PositiveFloat | None = Field(
        None,
        description="Peak learning rate. Default: 0.01 for a head, 0.001 for lora, 0.00005 for full "
        "(suitable for adamw).",
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum of sgd.")
    weight_decay: float = Field(
        0.0, ge=0, description="Weight decay: decoupled for adamw, L2 for sgd."
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="Course of the learning rate over the steps of all rounds together."
    )
    warmup: float = Field(
        0.0, ge=0, lt=1, description="Share of all steps over which the learning rate rises."
    )
    centre_rounds: int = Field(
        0,
        ge=0,
        description="Rounds at the beginning that measure the mean of the features, by the job's own steps "
        "(with the same clip and noise); the others take their steps around it. For a linear head on "
        "features that resemble each other, such as those of pictures of one kind; with sgd and fedavg.",
    )
    gradient_clipping: PositiveFloat | None = Field(
        None, description="Largest L2 norm of a step's gradient (only without privacy)."
    )
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        "float32",
        description='"bfloat16" runs the base model under autocast, "auto" does so if the '
        "hardware is faster with it; trained weights, gradient norms and updates stay in float32.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass to save memory."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Device to train on; auto takes CUDA, then MPS, then the CPU."
    )
