"""Dialogues that tests make."""


def turns(*contents, system=None):
    said = [{"role": ("user", "assistant")[n % 2], "content": c} for n, c in enumerate(contents)]
    return [*([{"role": "system", "content": system}] if system else []), *said]
