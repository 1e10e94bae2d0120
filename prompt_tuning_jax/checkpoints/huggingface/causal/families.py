"""The families of causal models: what is in all models of one, and what its files call things.

llama    Llama 2 and 3, SmolLM2        qwen2    Qwen2 and Qwen2.5      gemma2       Gemma 2
smollm3  SmolLM3                       qwen3    Qwen3                  gemma3_text  Gemma 3
mistral  Mistral                       gpt2     GPT-2
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any


def _frozen(**entries: Any) -> Mapping[str, Any]:
    return types.MappingProxyType(entries)


@dataclasses.dataclass(frozen=True)
class FamilyTable:
    """One of transformers' models.

    Attributes:
      model_class: transformers' name of it.
      switches: fields of `CausalConfig` that are alike in all models of it.
      defaults: fields of config.json that transformers fills in where the file has them not.
      reads: fields of config.json that it obeys and others do not.
      has_biases, has_qkv_biases: all its kernels have biases, or those of queries, keys and values,
        which no field says.
      windows: which layers see a window: "none", "all", where it is "asked" for, or a "pattern".
      fields: our name of a field -> its name in config.json, where that differs from Llama's.
      names: our folder in the parameter tree -> its name in the files; `{i}` is the layer's number.
      wrapper: stands before all names but the output layer's, unless the model was saved alone.
      transposed: whether kernels are stored as [out, in].
    """

    model_class: str
    names: Mapping[str, str]
    switches: Mapping[str, Any] = dataclasses.field(default_factory=_frozen)
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=_frozen)
    reads: tuple[str, ...] = ()
    fields: Mapping[str, str] = dataclasses.field(default_factory=_frozen)
    has_biases: bool = False
    has_qkv_biases: bool = False
    windows: str = "none"
    wrapper: str = "model."
    transposed: bool = True


_LAYER = _frozen(
    **{
        "attention/query": "layers.{i}.self_attn.q_proj",
        "attention/key": "layers.{i}.self_attn.k_proj",
        "attention/value": "layers.{i}.self_attn.v_proj",
        "attention/out": "layers.{i}.self_attn.o_proj",
        "attention/query_norm": "layers.{i}.self_attn.q_norm",
        "attention/key_norm": "layers.{i}.self_attn.k_norm",
        "mlp/wi_0": "layers.{i}.mlp.gate_proj",
        "mlp/wi_1": "layers.{i}.mlp.up_proj",
        "mlp/wo": "layers.{i}.mlp.down_proj",
        "pre_attention_norm": "layers.{i}.input_layernorm",
        "token_embedder": "embed_tokens",
        "decoder/decoder_norm": "norm",
        "decoder/logits_dense": "lm_head",
    }
)
_LLAMA = _frozen(**_LAYER, pre_mlp_norm="layers.{i}.post_attention_layernorm")
_GEMMA = _frozen(
    **_LAYER,
    post_attention_norm="layers.{i}.post_attention_layernorm",
    pre_mlp_norm="layers.{i}.pre_feedforward_layernorm",
    post_mlp_norm="layers.{i}.post_feedforward_layernorm",
)
_GPT2 = _frozen(
    **{
        "attention/qkv": "h.{i}.attn.c_attn",
        "attention/out": "h.{i}.attn.c_proj",
        "mlp/wi": "h.{i}.mlp.c_fc",
        "mlp/wo": "h.{i}.mlp.c_proj",
        "pre_attention_norm": "h.{i}.ln_1",
        "pre_mlp_norm": "h.{i}.ln_2",
        "token_embedder": "wte",
        "position_embedder": "wpe",
        "decoder/decoder_norm": "ln_f",
        "decoder/logits_dense": "lm_head",
    }
)
_GEMMA_SWITCHES = _frozen(norm_plus_one=True, post_norms=True, scale_embedding=True)
_GEMMA_DEFAULTS = _frozen(
    num_key_value_heads=4,
    head_dim=256,
    hidden_activation="gelu_pytorch_tanh",
    tie_word_embeddings=True,
    query_pre_attn_scalar=256,
    sliding_window=4096,
    eos_token_id=1,
    bos_token_id=2,
    pad_token_id=0,
)
_GEMMA_READS = (
    "attention_bias",
    "query_pre_attn_scalar",
    "layer_types",
    "final_logit_softcapping",
)
_GEMMA_FIELDS = _frozen(hidden_act="hidden_activation")
_QWEN_READS = ("use_sliding_window", "max_window_layers", "layer_types")

FAMILIES: Mapping[str, FamilyTable] = _frozen(
    llama=FamilyTable(
        "LlamaForCausalLM",
        _LLAMA,
        defaults=_frozen(eos_token_id=2, bos_token_id=1),
        reads=("attention_bias", "mlp_bias"),
    ),
    smollm3=FamilyTable(
        "SmolLM3ForCausalLM",
        _LLAMA,
        defaults=_frozen(
            num_key_value_heads=4,
            rope_theta=2000000.0,
            tie_word_embeddings=True,
            no_rope_layer_interval=4,
            eos_token_id=128001,
            bos_token_id=128000,
            pad_token_id=128004,
        ),
        reads=(
            "attention_bias",
            "mlp_bias",
            "no_rope_layers",
            "no_rope_layer_interval",
            "use_sliding_window",
            "layer_types",
        ),
        windows="asked",
    ),
    mistral=FamilyTable(
        "MistralForCausalLM",
        _LLAMA,
        defaults=_frozen(
            num_key_value_heads=8, sliding_window=4096, eos_token_id=2, bos_token_id=1
        ),
        reads=("layer_types",),  # where it is there, transformers makes a Ministral of it
        windows="all",
    ),
    qwen2=FamilyTable(
        "Qwen2ForCausalLM",
        _LLAMA,
        has_qkv_biases=True,
        defaults=_frozen(num_key_value_heads=32, sliding_window=4096, max_window_layers=28),
        reads=_QWEN_READS,
        windows="asked",
    ),
    qwen3=FamilyTable(
        "Qwen3ForCausalLM",
        _LLAMA,
        switches=_frozen(qk_norm=True),
        defaults=_frozen(
            num_key_value_heads=32, head_dim=128, sliding_window=4096, max_window_layers=28
        ),
        reads=("attention_bias", *_QWEN_READS),
        windows="asked",
    ),
    gemma2=FamilyTable(
        "Gemma2ForCausalLM",
        _GEMMA,
        switches=_GEMMA_SWITCHES,
        defaults=_frozen(
            **_GEMMA_DEFAULTS,
            sliding_window_pattern=2,
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
        ),
        reads=("attn_logit_softcapping", *_GEMMA_READS),
        fields=_GEMMA_FIELDS,
        windows="pattern",
    ),
    gemma3_text=FamilyTable(
        "Gemma3ForCausalLM",
        _GEMMA,
        switches=_frozen(**_GEMMA_SWITCHES, qk_norm=True),
        defaults=_frozen(
            **_GEMMA_DEFAULTS,
            sliding_window_pattern=6,
            rope_theta=1000000.0,
            rope_local_base_freq=10000.0,
        ),
        reads=(
            "sliding_window_pattern",
            "rope_local_base_freq",
            "use_bidirectional_attention",
            *_GEMMA_READS,
        ),
        fields=_GEMMA_FIELDS,
        windows="pattern",
    ),
    gpt2=FamilyTable(
        "GPT2LMHeadModel",
        _GPT2,
        switches=_frozen(norm="layer", joined_qkv=True, learned_positions=True),
        has_biases=True,
        defaults=_frozen(
            activation_function="gelu_new",
            layer_norm_epsilon=1e-5,
            tie_word_embeddings=True,
            scale_attn_weights=True,
            eos_token_id=50256,
            bos_token_id=50256,
        ),
        fields=_frozen(
            hidden_size="n_embd",
            num_hidden_layers="n_layer",
            num_attention_heads="n_head",
            max_position_embeddings="n_positions",
            intermediate_size="n_inner",
            hidden_act="activation_function",
            rms_norm_eps="layer_norm_epsilon",
        ),
        wrapper="transformer.",
        transposed=False,
    ),
)
