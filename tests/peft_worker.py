"""PEFT at work, in an interpreter that has it: makes or loads adapters, and records their numbers.

Takes a JSON list of jobs on standard input; each writes logits, loss and greedy sequences.
"""

import json
import sys
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

KINDS = {"PROMPT_TUNING": peft.PromptTuningConfig, "P_TUNING": peft.PromptEncoderConfig}


def make(base: str, adapter: str, kind: str, dtype: str, **settings) -> peft.PeftModel:
    """A new adapter of random values, written to the directory `adapter`."""
    model = transformers.T5ForConditionalGeneration.from_pretrained(base)
    config = KINDS[kind](task_type=peft.TaskType.SEQ_2_SEQ_LM, num_virtual_tokens=5, **settings)
    model = peft.get_peft_model(model, config).eval()
    model.prompt_encoder.to(getattr(torch, dtype))
    model.save_pretrained(adapter)
    return model


def numbers(model: peft.PeftModel, batch: str) -> dict[str, np.ndarray]:
    fields = {name: torch.tensor(x).long() for name, x in np.load(batch).items()}
    labels = fields.pop("labels")
    with torch.no_grad():
        outputs = model(**fields, labels=labels)
        sequences = model.generate(**fields, max_new_tokens=8, do_sample=False)
    return {
        "logits": outputs.logits.numpy(),
        "loss": outputs.loss.numpy(),
        "sequences": sequences.numpy(),
    }


def main() -> None:
    torch.manual_seed(0)
    for job in json.load(sys.stdin):
        if job.get("make"):
            model = make(job["base"], job["adapter"], **job["make"])
        else:  # the base as the adapter names it
            model = peft.AutoPeftModelForSeq2SeqLM.from_pretrained(
                job["adapter"], dtype=torch.float32
            ).eval()
        np.savez(Path(job["adapter"]) / "numbers.npz", **numbers(model, job["batch"]))


if __name__ == "__main__":
    main()
