"""Jobs of every kind of network, and which of its tensors train."""

CLASSIFIERS = [
    (base, pooling, adapter)
    for base, pooling in [
        ("bert", "mean"),
        ("bert", "layers"),
        ("bert", "own"),
        ("roberta", "mean"),
        ("roberta", "own"),
        ("llama", "layers"),
        ("llama", "own"),
    ]
    for adapter in ("head", "lora", "full")
]
LANGUAGE_MODELS = [
    (base, None, adapter) for base in ("llama", "gpt2") for adapter in ("lora", "full")
]


def network_job(job_of, base, pooling, adapter, **sections):
    model = {"adapter": adapter, **({"pooling": pooling} if pooling else {})}
    task = "text-classification" if pooling else "causal-lm"
    sections = {"privacy": {"unit": "none"}, **sections}
    return job_of(base, task=task, model=with_size(job_of, base, model), **sections)


def with_size(job_of, base, model):
    return {**job_of(base).model.model_dump(exclude={"lora"}), "lora": {"rank": 2}, **model}


def is_head(name, pooling):
    return (
        name.startswith("mean_head.")
        if pooling in ("mean", "layers")
        else ".classifier" in name or ".score" in name
    )


def should_train(name, pooling, adapter):
    if adapter == "full":
        return True
    head = pooling is not None and is_head(name, pooling)
    # PEFT keeps the first head, frozen, beside the one that it trains.
    head = head and "original_module" not in name
    return head or (adapter == "lora" and ("lora_A" in name or "lora_B" in name))
