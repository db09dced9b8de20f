"""Models of every shape with random weights, and one that is real and small."""

import importlib.util
from functools import lru_cache
from pathlib import Path

import pytest


def _tokenizer(kind, texts):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    if kind in ("llama", "gpt2"):
        # Like many decoders: no start, no padding, and no end of text after a text.
        return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", unk_token="<unk>")
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def _model(kind):
    import transformers as t

    size = {"vocab_size": 400, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    encoder = {
        **size,
        "intermediate_size": 32,
        "max_position_embeddings": 72,
        "pad_token_id": 1,
        # Without dropout a forward pass in training mode equals one in evaluation mode.
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.2,
    }
    if kind == "bert":
        return t.BertModel(t.BertConfig(**encoder))
    if kind == "bert-without-pooler":
        return t.BertForMaskedLM(t.BertConfig(**encoder))
    if kind == "bert-with-dropout":
        return t.BertModel(t.BertConfig(**{**encoder, "hidden_dropout_prob": 0.1}))
    if kind == "roberta":
        return t.RobertaModel(t.RobertaConfig(**encoder))
    if kind == "llama":
        config = t.LlamaConfig(
            **size,
            intermediate_size=32,
            max_position_embeddings=72,
            eos_token_id=2,
            bos_token_id=None,
            initializer_range=0.2,
        )
        return t.LlamaForCausalLM(config)
    if kind == "gpt2":
        config = t.GPT2Config(
            vocab_size=400,
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=72,
            eos_token_id=2,
            bos_token_id=2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
        return t.GPT2LMHeadModel(config)
    raise ValueError(kind)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, texts):
    """The folder of a tiny model: bert, bert-without-pooler, bert-with-dropout, roberta, llama, gpt2."""

    @lru_cache
    def build(kind):
        import torch

        folder = tmp_path_factory.mktemp("models") / kind
        torch.manual_seed(7)
        _model(kind).eval().save_pretrained(folder)
        _tokenizer(kind, texts).save_pretrained(folder)
        return str(folder)

    return build


@pytest.fixture(scope="session")
def albert(tmp_path_factory, texts):
    """A real model of 0.8 million weights, from a package, with a tokenizer for English."""
    source = Path(importlib.util.find_spec("rxnmapper").submodule_search_locations[0])
    source = source / "models" / "transformers" / "albert_heads_8_uspto_all_1310k"
    folder = tmp_path_factory.mktemp("models") / "albert"
    folder.mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        (folder / name).symlink_to(source / name)
    _tokenizer("albert", texts).save_pretrained(folder)
    return str(folder)
