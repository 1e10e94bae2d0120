"""What a client does to a server, the same in several tests."""

import json

import httpx
from safetensors.numpy import save

from prompt_tuning_jax import TunedPrompt


def send(address: str, name: str, prompt: TunedPrompt, **facts) -> None:
    """Sends a prompt to a server."""
    told = json.dumps({"visibility": prompt.visibility, **facts})
    sent = httpx.put(
        f"{address}/v1/prompts/{name}",
        content=save({"prompt": prompt.values}, {"prompt": told}),
        headers={"Content-Type": "application/vnd.safetensors"},
        timeout=120,
    )
    assert sent.status_code == 201, sent.text
