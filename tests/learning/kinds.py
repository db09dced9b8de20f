"""Kinds of models that are trained: base, pooling and adapter, and a job of each."""

KINDS = [
    ("bert", "mean", "head"),
    ("bert", "mean", "lora"),
    ("bert", "mean", "full"),
    ("bert", "layers", "head"),
    ("bert", "layers", "lora"),
    ("llama", "layers", "full"),
    ("bert", "own", "head"),
    ("bert", "own", "lora"),
    ("bert", "own", "full"),
    ("roberta", "own", "head"),
    ("roberta", "own", "lora"),
    ("roberta", "mean", "full"),
    ("llama", "own", "lora"),
    ("llama", None, "lora"),
    ("llama", None, "full"),
    ("gpt2", None, "lora"),
]


def job(job_of, kind, **sections):
    base, pooling, adapter = kind
    task = "text-classification" if pooling else "causal-lm"
    model = {
        **job_of(base).model.model_dump(exclude={"lora"}),
        "lora": {"rank": 2},
        "adapter": adapter,
        **({"pooling": pooling} if pooling else {}),
        **sections.pop("model", {}),
    }
    return job_of(base, task=task, model=model, **sections)
