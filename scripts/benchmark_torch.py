"""PEFT's worker for benchmark.py and benchmark_gpu.py, which start it with torch and PEFT.

Nothing here imports this library or JAX.
"""

import sys
import warnings
from typing import Any

from benchmark_worker import Repeat, Settings, resident_peak, serve

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


def prepare(settings: Settings) -> torch.device:
    """Makes a CPU's threads, or the GPU, and the numbers that follow the same in every run."""
    torch.manual_seed(0)
    if settings.get("threads"):
        torch.set_num_threads(settings["threads"])
    return torch.device(settings.get("device", "cpu"))


def peft_model(settings: Settings, device: torch.device) -> peft.PeftModel:
    """A model with random weights under PEFT's prompt tuning, which freezes it."""
    make, task_type = t5_model, peft.TaskType.SEQ_2_SEQ_LM
    if is_causal(settings):
        make, task_type = causal_model, peft.TaskType.CAUSAL_LM
    tuning = peft.PromptTuningConfig(
        task_type=task_type,
        num_virtual_tokens=settings["prompt"],
        num_transformer_submodules=1,  # or as many rows again are made for the decoder, and unused
    )
    torch.set_default_dtype(getattr(torch, settings["config"]["dtype"]))
    with device:
        frozen = make(settings)
    torch.set_default_dtype(torch.float32)  # the prompt's, here and in the library
    return peft.get_peft_model(frozen, tuning).to(device).train()


def is_causal(settings: Settings) -> bool:
    return "model_type" in settings["config"]


def t5_model(settings: Settings) -> transformers.PreTrainedModel:
    """T5 1.1."""
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
    return transformers.T5ForConditionalGeneration(config)


def causal_model(settings: Settings) -> transformers.PreTrainedModel:
    """What a `config.json` says of a causal model."""
    fields = {name: x for name, x in settings["config"].items() if name != "dtype"}
    config = transformers.AutoConfig.for_model(**fields)
    return transformers.AutoModelForCausalLM.from_config(config)


def check_only_prompt_trains(model: peft.PeftModel) -> dict[str, list[int]]:
    """The parameters that a backward pass has given a gradient: the prompt's, or it is an error."""
    trained = {n: list(p.shape) for n, p in model.named_parameters() if p.grad is not None}
    if list(trained) != [EMBEDDING]:
        raise RuntimeError(f"Expected a gradient for {EMBEDDING} alone, got {list(trained)}.")
    return trained


def train_step(settings: Settings) -> tuple[Repeat, dict]:
    """Forward, backward and AdamW, as a training loop around PEFT does them."""
    device = prepare(settings)
    model = peft_model(settings, device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    rows, vocab_size = settings["batch"], settings["config"]["vocab_size"]
    input_ids, labels = (
        torch.randint(2, vocab_size, (rows, settings[name]), device=device)
        for name in ("inputs", "targets")
    )
    if is_causal(settings):  # the targets follow the input, which has no loss
        no_loss = torch.full_like(input_ids, -100)
        input_ids, labels = (torch.cat([x, labels], dim=1) for x in (input_ids, no_loss))
    mask = torch.ones_like(input_ids)
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
    return repeat, facts(model, device, check_only_prompt_trains(model))


def decode(settings: Settings) -> tuple[Repeat, dict]:
    """PEFT's `generate`, greedy with its cache; end-of-text is left out, so no row ends early."""
    device = prepare(settings)
    model = peft_model(settings, device).eval()
    has_right_cache = cache_is_right(model, settings, device)
    if settings["compile"]:
        model = torch.compile(model)
    shape = settings["batch"], settings["inputs"]
    ids = torch.randint(2, settings["config"]["vocab_size"], shape, device=device)

    def repeat(times: int) -> None:
        for _ in range(times):
            found = generated(model, ids, use_cache=has_right_cache)
            if found.shape[-1] != DECODED + (ids.shape[-1] if is_causal(settings) else 1):
                raise ValueError("A row ended early: the work is not what it should be.")

    repeat(1)
    return repeat, facts(model, device, {}) | {"cache": has_right_cache}


def generated(model: peft.PeftModel, ids: torch.Tensor, use_cache: bool) -> torch.Tensor:
    with torch.inference_mode():
        return model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            num_beams=1,
            max_new_tokens=DECODED,
            min_new_tokens=DECODED,
            do_sample=False,
            use_cache=use_cache,
        )


def cache_is_right(model: peft.PeftModel, settings: Settings, device: torch.device) -> bool:
    """Whether answers are the same without: PEFT 0.21 with transformers 5.24 repeats the prompt."""
    ids = torch.randint(2, settings["config"]["vocab_size"], (2, 16), device=device)
    return torch.equal(generated(model, ids, True), generated(model, ids, False))


def facts(
    model: peft.PeftModel, device: torch.device, trained: dict[str, list[int]]
) -> dict[str, Any]:
    """What is recorded."""
    return {
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, peft)},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "attention": model.config._attn_implementation,
        "trained": trained,
    }


def device_peak() -> int:
    """The most bytes of the GPU's memory, or of the process's."""
    return torch.cuda.max_memory_allocated() or resident_peak()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    serve({"train_step": train_step, "decode": decode}, device_peak)
