"""PEFT's worker for benchmark.py, which starts it in an interpreter with torch and PEFT.

Nothing here imports this library or JAX.
"""

import sys
import warnings

from benchmark_worker import Repeat, Settings, serve

try:
    import peft
    import torch
    import transformers
except ImportError as error:
    sys.exit(
        f"{sys.executable}: {error}. Make a virtual environment of its own, `pip install torch "
        "transformers peft` in it, and pass its python as --torch_python."
    )

DECODED = 8  # tokens of `decode`
EMBEDDING = "prompt_encoder.default.embedding.weight"


def peft_model(settings: Settings) -> peft.PeftModel:
    """T5 1.1 with random weights under PEFT's prompt tuning, which freezes it."""
    shape = settings["config"]
    config = transformers.T5Config(
        vocab_size=shape["vocab_size"],
        d_model=shape["emb_dim"],
        d_kv=shape["head_dim"],
        d_ff=shape["mlp_dim"],
        num_layers=shape["num_encoder_layers"],
        num_decoder_layers=shape["num_decoder_layers"],
        num_heads=shape["num_heads"],
        dropout_rate=settings["dropout"],
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    tuning = peft.PromptTuningConfig(
        task_type=peft.TaskType.SEQ_2_SEQ_LM,
        num_virtual_tokens=settings["prompt"],
        num_transformer_submodules=1,  # or as many rows again are made for the decoder, and unused
    )
    return peft.get_peft_model(transformers.T5ForConditionalGeneration(config), tuning).train()


def check_only_prompt_trains(model: peft.PeftModel) -> dict[str, list[int]]:
    """The parameters that a backward pass has given a gradient: the prompt's, or it is an error."""
    trained = {n: list(p.shape) for n, p in model.named_parameters() if p.grad is not None}
    if list(trained) != [EMBEDDING]:
        raise RuntimeError(f"Expected a gradient for {EMBEDDING} alone, got {list(trained)}.")
    return trained


def train_step(settings: Settings) -> tuple[Repeat, dict]:
    """Forward, backward and AdamW, as a training loop around PEFT does them."""
    torch.manual_seed(0)
    torch.set_num_threads(settings["threads"])
    model = peft_model(settings)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    rows, vocab_size = settings["batch"], settings["config"]["vocab_size"]
    input_ids = torch.randint(2, vocab_size, (rows, settings["inputs"]))
    mask, labels = (
        torch.ones_like(input_ids),
        torch.randint(2, vocab_size, (rows, settings["targets"])),
    )
    forward = torch.compile(model) if settings["compile"] else model

    def repeat(times: int) -> None:
        for _ in range(times):
            optimizer.zero_grad()
            # A key/value cache is of no use in training; leaving it out is faster.
            out = forward(input_ids=input_ids, attention_mask=mask, labels=labels, use_cache=False)
            out.loss.backward()
            optimizer.step()
        if not torch.isfinite(out.loss):
            raise FloatingPointError("The loss is not finite.")

    repeat(2 if settings["compile"] else 1)
    versions = {module.__name__: module.__version__ for module in (torch, transformers, peft)}
    return repeat, {"versions": versions, "trained": check_only_prompt_trains(model)}


def decode(settings: Settings) -> tuple[Repeat, dict]:
    """PEFT's `generate`, greedy with its cache; end-of-text is left out, so no row ends early."""
    torch.manual_seed(0)
    torch.set_num_threads(settings["threads"])
    model = peft_model(settings).eval()
    if settings["compile"]:
        model = torch.compile(model)
    ids = torch.randint(
        2, settings["config"]["vocab_size"], (settings["batch"], settings["inputs"])
    )
    options = {"max_new_tokens": DECODED, "min_new_tokens": DECODED, "do_sample": False}

    def repeat(times: int) -> None:
        for _ in range(times):
            with torch.inference_mode():
                found = model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), num_beams=1, **options
                )
            if found.shape[-1] != DECODED + 1:
                raise ValueError("A row ended early: the work is not what it should be.")

    repeat(1)
    versions = {module.__name__: module.__version__ for module in (torch, transformers, peft)}
    return repeat, {"versions": versions, "trained": {}}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    serve({"train_step": train_step, "decode": decode})
