"""Every text architecture that transformers knows, built small with random weights.

Names come from transformers' own tables and sizes from the fields of each configuration, so that an
architecture that is added there is tried here without a line of ours. Those that cannot be built small
say why.
"""

import copy
import re

import torch

VOCABULARY = 71
MOST_PARAMETERS = 3_000_000

# Fields by name, and what makes a model small. The first that matches counts.
_SMALL = [
    (r"(vocab_size|n_vocab|vocab_size_per_layer_input)$", VOCABULARY),
    (
        r"(max_position|n_positions|max_seq|n_ctx|max_target|max_source|seq_length|context_length)",
        128,
    ),
    (r"num_(hidden_)?layers$|n_layers?$|num_.*_layers$|^(en|de)coder_layers$|layers_per_block", 2),
    (r"num_hidden_groups|inner_group_num", 1),
    (r"(experts_per_tok|num_selected_experts|top_?k_experts|moe_k|moe_topk)$", 2),
    (r"experts$|num_experts|moe_num", 4),
    (r"shared_expert", 1),
    (r"n_group$|topk_group$", 1),
    (r"(num|n)_(.*_)?heads?(_kv)?$|attention_heads$|num_key_value_heads|n_head$|num_kv_heads", 2),
    (r"(head_dim|d_kv|head_size|d_head|qk_nope_head_dim|qk_rope_head_dim|v_head_dim)$", 16),
    (r"(kv_lora_rank|q_lora_rank|rank)$", 16),
    (r"bottleneck_size$", 32),
    (r"(intermediate|ffn|d_ff|d_inner|inner_dim|ff_dim|hidden_dim|n_inner)", 64),
    (
        r"(hidden_size|d_model|n_embd|embedding_size|d_embed|emb_dim|embed_dim|^dim$|word_embed_proj_dim)",
        32,
    ),
    (r"attention_window", 8),
    (r"(window|chunk)", 16),
    (r"(state_size|d_state|conv_kernel|expand)", 4),
    (r"num_buckets$", 8),
]
_PARTS = ("text_config", "decoder", "encoder")


class NotSmall(Exception):
    """Why an architecture cannot be built small."""


def names(task):
    """Model types, from transformers' own table for the task."""
    from transformers.models.auto import modeling_auto

    table = {
        "text-classification": modeling_auto.MODEL_MAPPING_NAMES,
        "causal-lm": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    }[task]
    return sorted(table)


def build(task, kind, folder, tokenizer):
    """Save a small model of a kind with random weights; ``NotSmall`` says why there is none."""
    import transformers

    try:
        config = small_config(kind)
        factory = {
            "text-classification": transformers.AutoModel,
            "causal-lm": transformers.AutoModelForCausalLM,
        }[task]
        with torch.device("meta"):
            numbers = sum(
                p.numel() for p in factory.from_config(copy.deepcopy(config)).parameters()
            )
        if numbers > MOST_PARAMETERS:
            raise NotSmall(f"{numbers} parameters")
        torch.manual_seed(11)
        model = factory.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                # Random weights start so small that most of a model does nothing; a table's padding
                # row is zero at first, in an embedding that was trained it is not.
                if parameter.is_floating_point() and parameter.dim() > 1:
                    parameter.normal_(0, 0.1)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except NotSmall:
        raise
    except Exception as error:
        raise NotSmall(f"{type(error).__name__}: {str(error)[:90]}") from None


def small_config(kind):
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[kind]()
    _shrink(config)
    return config


def _shrink(config):
    for name, value in list(vars(config).items()):
        if name.startswith("_"):
            continue
        if hasattr(value, "to_dict"):
            _shrink(value)
        elif isinstance(value, bool) or value is None:
            continue
        elif isinstance(value, int):
            small = next((size for pattern, size in _SMALL if re.search(pattern, name)), None)
            if small is not None and value > small:
                _set(config, name, small)
            elif name.endswith("token_id") and value >= VOCABULARY:
                _set(config, name, 0 if name == "pad_token_id" else 2)
        elif isinstance(value, list) and name == "layer_types":
            _set(config, name, value[:2])
        elif isinstance(value, list) and value and all(type(v) is int for v in value):
            small = next((size for pattern, size in _SMALL if re.search(pattern, name)), None)
            if small is not None:
                _set(config, name, [min(v, small) for v in value])
    for name in ("dropout", "pad_token_id"):
        if name == "pad_token_id" and getattr(config, name, 0) is None:
            _set(config, name, 0)


def _set(config, name, value):
    try:
        setattr(config, name, value)
    except Exception:
        return


def word_tokenizer():
    """Words w0 to w65 and five special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = special + [f"w{n}" for n in range(VOCABULARY - len(special))]
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        bos_token="[CLS]",
        eos_token="[SEP]",
    )
