"""What load_test.py compares with: PEFT in a FastAPI handler, which switches adapters.

    python scripts/load_test_peft.py MODEL ADAPTERS PORT    # with torch, peft, fastapi, uvicorn

MODEL is a Hugging Face directory of a T5, ADAPTERS a folder of PEFT's prompts. All of them are in
memory. A model answers one request at a time, for its active adapter is the model's, not a row's.
Nothing here imports this library or JAX.
"""

import sys
import threading
from pathlib import Path

import fastapi
import peft
import torch
import transformers
import uvicorn
from pydantic import BaseModel


class Asked(BaseModel):
    """What is read of OpenAI's completions."""

    model: str
    prompt: str
    max_tokens: int


def make_app(directory: str, adapters: Path) -> fastapi.FastAPI:
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    frozen = transformers.T5ForConditionalGeneration.from_pretrained(directory).eval()
    first, *others = sorted(path for path in adapters.iterdir())
    model = peft.PeftModel.from_pretrained(frozen, first, adapter_name=first.name)
    for path in others:
        model.load_adapter(path, adapter_name=path.name)
    app, turn = fastapi.FastAPI(), threading.Lock()

    @app.post("/v1/completions")
    def complete(asked: Asked) -> dict:
        inputs = tokenizer(asked.prompt, return_tensors="pt")
        with turn, torch.inference_mode():
            model.set_adapter(asked.model)
            tokens = model.generate(**inputs, max_new_tokens=asked.max_tokens, do_sample=False)
        return {"choices": [{"text": tokenizer.decode(tokens[0], skip_special_tokens=True)}]}

    return app


def main() -> None:
    if len(sys.argv) != 4 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    directory, adapters, port = sys.argv[1:]
    transformers.logging.set_verbosity_error()
    app = make_app(directory, Path(adapters))
    print(f"Listening at http://127.0.0.1:{port}/", file=sys.stderr, flush=True)
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
