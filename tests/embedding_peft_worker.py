"""PEFT beside sentence-transformers, for test_retrieval_peft.py; needs torch and both of them.

Reads jobs from standard input, a JSON list of objects: `base` (a model's directory), `adapter`
(where to write it, or what is there), `make` (a kind and PEFT's settings, for a new adapter of
random values), `way` (how it is loaded, one of WAYS), `texts`, and `vectors` (the file to write).
"""

import json
import sys

import numpy as np
import peft
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoModel, T5EncoderModel

KINDS = {"lora": peft.LoraConfig, "ia3": peft.IA3Config}


def make(base: str, adapter: str, kind: str, **settings) -> SentenceTransformer:
    """A new adapter of random values, written to the directory `adapter`."""
    task = peft.TaskType.FEATURE_EXTRACTION
    whole = SentenceTransformer(base, device="cpu")
    network = peft.get_peft_model(whole[0].model, KINDS[kind](task_type=task, **settings))
    for name, x in network.named_parameters():
        if x.requires_grad:
            x.data = torch.randn_like(x) * 0.3 + (1.0 if "ia3" in name else 0.0)
    network.save_pretrained(adapter)
    whole[0].model = network
    return whole


def by_peft(base: str, adapter: str) -> SentenceTransformer:
    is_t5 = AutoConfig.from_pretrained(base).model_type == "t5"
    network = (T5EncoderModel if is_t5 else AutoModel).from_pretrained(base)
    whole = SentenceTransformer(base, device="cpu")
    whole[0].model = peft.PeftModel.from_pretrained(network, adapter)
    return whole


def by_library(base: str, adapter: str) -> SentenceTransformer:
    whole = SentenceTransformer(base, device="cpu")
    whole.load_adapter(adapter)
    return whole


WAYS = {"peft": by_peft, "library": by_library}


def main() -> None:
    torch.manual_seed(0)
    for job in json.load(sys.stdin):
        if job.get("make"):
            whole = make(job["base"], job["adapter"], **job["make"])
        else:
            whole = WAYS[job["way"]](job["base"], job["adapter"])
        np.save(job["vectors"], whole.eval().encode(job["texts"]))


if __name__ == "__main__":
    main()
