"""PEFT's own adapters and their numbers, for test_adapters.py; needs torch, transformers and peft.

Reads jobs from standard input, a JSON list of objects: `base` (a model's directory), `adapter`
(where to write it, or what is there), `make` (a kind and PEFT's settings, for a new adapter of
random values) and `batch` (an npz file of input_ids, attention_mask and labels). Writes
`numbers.npz` into each adapter's directory.
"""

import json
import sys
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

KINDS = {"lora": peft.LoraConfig, "ia3": peft.IA3Config, "prefix": peft.PrefixTuningConfig}


def base_model(path: str):
    config = transformers.AutoConfig.from_pretrained(path)
    auto = transformers.AutoModelForCausalLM
    if config.is_encoder_decoder:
        auto = transformers.AutoModelForSeq2SeqLM
    return auto.from_pretrained(path, attn_implementation="eager"), config.is_encoder_decoder


def make(base, is_encoder_decoder: bool, adapter: str, kind: str, **settings) -> peft.PeftModel:
    """A new adapter of random values, written to the directory `adapter`."""
    task = peft.TaskType.SEQ_2_SEQ_LM if is_encoder_decoder else peft.TaskType.CAUSAL_LM
    model = peft.get_peft_model(base, KINDS[kind](task_type=task, **settings))
    for name, x in model.named_parameters():
        if x.requires_grad:
            x.data = torch.randn_like(x) * 0.3 + (1.0 if "ia3" in name else 0.0)
    model.save_pretrained(adapter)
    return model


def numbers(model: peft.PeftModel, batch: str) -> dict[str, np.ndarray]:
    fields = {name: torch.tensor(x).long() for name, x in np.load(batch).items()}
    for x in model.parameters():
        x.grad = None
    outputs = model(**fields)
    found = {"logits": outputs.logits.detach().numpy(), "loss": outputs.loss.detach().numpy()}
    if any(x.requires_grad for x in model.parameters()):
        outputs.loss.backward()
        for name, x in model.named_parameters():
            if x.grad is not None:
                found[f"grad:{name.replace('.default', '')}"] = x.grad.numpy()
    return found


def main() -> None:
    torch.manual_seed(0)
    for job in json.load(sys.stdin):
        base, is_encoder_decoder = base_model(job["base"])
        if job.get("make"):
            model = make(base, is_encoder_decoder, job["adapter"], **job["make"])
        else:
            model = peft.PeftModel.from_pretrained(base, job["adapter"])
        np.savez(Path(job["adapter"]) / "numbers.npz", **numbers(model.eval(), job["batch"]))


if __name__ == "__main__":
    main()
