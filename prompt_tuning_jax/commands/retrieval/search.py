"""The documents of an index that are nearest to a question, compared with every one.

    echo '{"_id": "d7", "text": "The ferry leaves at noon."}' \\
      | prompt-tuning index --model bundled --output index
    prompt-tuning search "When does the boat go?" --index index
    prompt-tuning search --index index --prompt runs/faq/best --top 3 < questions.txt
    prompt-tuning search "When does the boat go?" --index index --adapter runs/lora/best

A line for each document that was found: rank, score, id and text; with --json, a JSON object for
each question. Without --model, the one that made the index. A prompt that was tuned for both sides
asks an index that was made with it.
"""

import json
from collections.abc import Iterator, Sequence

from prompt_tuning_jax.bounds import COUNT
from prompt_tuning_jax.commands.inference.infer_inputs import opened_lines
from prompt_tuning_jax.data.templates import check_unicode
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.errors import UsageError
from prompt_tuning_jax.evaluation.retrieval.exact_search import Found
from prompt_tuning_jax.evaluation.retrieval.sides import check_search
from prompt_tuning_jax.evaluation.retrieval.store import Store, load_store
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.common import DeviceConfig
from prompt_tuning_jax.settings.prompt_config import (
    AdapterConfig,
    load_adapted,
    load_checked_prompt,
)
from prompt_tuning_jax.settings.setting import PathLike, setting, settings

SHOWN = 100  # characters of a document


@settings
class SearchConfig(AdapterConfig, DeviceConfig):
    """What `prompt-tuning search` takes."""

    question: str | None = setting(
        default=None,
        help="what to look for. None: each line of standard input.",
        group="data",
        first=True,
        positional=True,
    )
    index: PathLike = setting(
        help="a folder that `prompt-tuning index` made.", group="data", first=True
    )
    model: PathLike | None = setting(
        default=None,
        help="the embedding model. None: where the one was that made the index.",
        group="model",
        first=True,
    )
    prompt: PathLike | None = setting(
        default=None,
        help="the tuned prompt, of the query side or of both.",
        group="prompt",
        first=True,
    )
    name: str | None = setting(
        default=None,
        help="""which of the model's text prompts stands before a question; None: that which the
        prompt was tuned with, else its "query", if it has one.""",
        group="model",
    )
    top: int = setting(
        default=10, help="how many documents to show.", group="data", first=True, bounds=COUNT
    )
    json: bool = setting(default=False, help="write JSON.", group="data")
    encoding: str | None = setting(
        default=None,
        help="of standard input, such as cp1252 or utf-16; None: UTF-8.",
        group="data",
    )


CONFIG = SearchConfig


def main(argv: list[str] | None = None) -> None:
    config = parse(CONFIG, argv, __doc__, "prompt-tuning search")
    questions = [config.question] if config.question is not None else _lines(config.encoding)
    if not questions:
        raise UsageError("There is no question: give one, or a line each on standard input.")
    store = load_store(config.index)
    mesh = sharding.make_mesh(config.mesh)
    model = store.load_model(config.model, dtype=config.model_dtype, mesh=mesh)
    model, adapter = load_adapted(config, model)
    prompt = config.prompt
    if prompt is not None:
        prompt = load_checked_prompt(prompt, model, config.allow_prompt_mismatch)
    check_search(store, prompt, config.index, config.prompt)
    for number, question in enumerate(questions, 1):
        check_unicode(question, f"Question {number}")
    name = config.name  # what was tuned says itself which it was tuned with
    if prompt is None and adapter is None:
        name = model.text_prompts.of_queries(name)
    vectors = model.embed(questions, prompt, name=name)
    found = store.search(vectors, config.top)
    for line in (_json if config.json else _told)(questions, found, store):
        print(line)


def _lines(encoding: str | None) -> list[str]:
    with opened_lines(None, encoding) as lines:
        return [text for line, _ in lines if (text := line.strip())]


def _told(questions: Sequence[str], found: Found, store: Store) -> Iterator[str]:
    for question, rows, scores in zip(questions, *found, strict=True):
        if len(questions) > 1:
            yield question
        for rank, (row, score) in enumerate(zip(rows, scores, strict=True), 1):
            text = " ".join(store.texts[row].split())
            shown = text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
            yield f"{rank:>3}  {score:.4f}  {store.ids[row]}  {shown}"


def _json(questions: Sequence[str], found: Found, store: Store) -> Iterator[str]:
    for question, rows, scores in zip(questions, *found, strict=True):
        documents = [
            {"_id": store.ids[row], "score": round(float(score), 6), "text": store.texts[row]}
            for row, score in zip(rows, scores, strict=True)
        ]
        yield json.dumps({"query": question, "documents": documents}, ensure_ascii=False)
