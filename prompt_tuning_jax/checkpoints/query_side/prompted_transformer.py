"""A prompt in front of a sentence-transformers model: the module that its `modules.json` names.

    from sentence_transformers import SentenceTransformer
    queries = SentenceTransformer("tuned", trust_remote_code=True)   # of `prompt-tuning export`

The one file here that needs torch and sentence-transformers. It reads an array and adds its rows to
the embedded tokens; everything else is theirs.
"""

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sentence_transformers.models import Transformer

from prompt_tuning_jax.checkpoints.query_side.rows import FILE, POOL, TENSOR


class PromptedTransformer(Transformer):
    """Their Transformer, with rows before each text's tokens."""

    @classmethod
    def load(
        cls, model_name_or_path: str | os.PathLike[str], subfolder: str = "", **options: Any
    ) -> "PromptedTransformer":
        """As theirs, and the prompt beside it."""
        module = super().load(model_name_or_path, subfolder=subfolder, **options)
        with safe_open(Path(model_name_or_path, subfolder, FILE), framework="pt") as file:
            prompt = file.get_tensor(TENSOR)
            module.pool_prompt = file.metadata()[POOL] == "True"
        module.register_buffer("prompt", prompt)
        module.tokenizer.padding_side = "right"  # nothing stands between the prompt and a text
        return module

    def save(self, output_path: str, *args: Any, **options: Any) -> None:
        """As theirs, and the prompt beside it."""
        super().save(output_path, *args, **options)
        told = {POOL: str(self.pool_prompt), "format": "pt"}
        save_file({TENSOR: self.prompt.contiguous().cpu()}, Path(output_path, FILE), told)

    def forward(self, features: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Token embeddings [B, T, D], or with the prompt's among them [B, P + T, D]."""
        ids, mask = features["input_ids"], features["attention_mask"]
        tokens = self.auto_model.get_input_embeddings()(ids)
        rows = self.prompt.to(tokens)[None].expand(len(ids), -1, -1)
        wide = torch.cat([mask.new_ones(rows.shape[:2]), mask], dim=1)
        joined = {
            name: x for name, x in features.items() if name not in ("input_ids", "token_type_ids")
        }
        joined |= {"inputs_embeds": torch.cat([rows, tokens], dim=1), "attention_mask": wide}
        found = super().forward(joined, **options)["token_embeddings"]
        if self.pool_prompt:
            return features | {"token_embeddings": found, "attention_mask": wide}
        return features | {"token_embeddings": found[:, rows.shape[1] :]}
