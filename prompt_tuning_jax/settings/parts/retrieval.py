"""Settings of training for retrieval: queries that come nearer to documents, which stay or not."""

from typing import Any

from prompt_tuning_jax.bounds import Bounds
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.models.embedding.config import BOTH, SIDES
from prompt_tuning_jax.settings.setting import PathLike, setting, settings, settings_of

KINDS = ("text", "retrieval")
# Settings of text tasks that mean nothing here.
_OF_TEXT = (
    *("task", "task_module", "task_field", "train_file", "validation_file", "test_file"),
    *("input_template", "target_template", "verbalizers", "validation_share", "positive"),
    *("columns", "encoding", "delimiter", "missing", "predictions", "feature_lengths", "pack"),
    *("microbatches", "scan_layers", "remat_policy", "attention", "attention_chunk", "vocabulary"),
    *("z_loss", "loss_normalization", "label_smoothing", "wayward_text", "shared_prompt"),
    *("share", "mix_tasks", "teachers", "dp_epsilon", "dp_noise_multiplier"),
    *("prompt_layout", "prompt_visibility"),
)


@settings
class RetrievalConfig:
    """Which documents there are, and how a query is drawn to its own."""

    task_kind: str = setting(
        default="text",
        help="""text: an answer to each input. retrieval: the nearest documents of each query, by an
        embedding model; data_dir then holds corpus, queries and qrels in BEIR's form, or pairs:
        train and dev files of text_a, text_b and, if there is one, their score.""",
        group="data",
        choices=KINDS,
        identity=True,
        shared=True,
    )
    sides: str = setting(
        default="query",
        help="""query: the prompt is before queries alone, and documents keep their vectors. both:
        before documents too, as pairs that say the same want it.""",
        group="prompt",
        choices=SIDES,
        identity=True,
        shared=True,
    )
    similar_from: float | None = setting(
        default=None,
        help="""of pairs with scores, from which score on they say the same. None: from four fifths
        of the way between the least and the greatest.""",
        group="data",
        identity=True,
        shared=True,
        bounds=Bounds(-1e9, 1e9),
    )
    index: PathLike | None = setting(
        default=None,
        help="""the documents' vectors, of `prompt-tuning index`. None: made once, and kept in
        model_dir/index.""",
        group="data",
        shared=True,
    )
    query_name: str | None = setting(
        default=None,
        help="""which of the embedding model's text prompts stands before queries; None: its
        "query", if it has one.""",
        group="data",
        identity=True,
        shared=True,
    )
    document_name: str | None = setting(
        default=None,
        help="""which stands before documents; None: its "document", "passage" or "corpus", if it
        has one; where the prompt is before both, as before queries.""",
        group="data",
        identity=True,
        shared=True,
    )
    contrastive_temperature: float = setting(
        default=0.05,
        help="what the inner products of queries and documents are divided by in the loss.",
        group="training",
        identity=True,
        shared=True,
        bounds=Bounds(1e-4, 100),
    )
    hard_negatives: int = setting(
        default=0,
        help="""how many documents that are near a query, and no answer, stand beside each of a
        batch's; drawn anew at each step.""",
        group="training",
        identity=True,
        shared=True,
        bounds=Bounds(0, 256),
    )
    negative_depth: int = setting(
        default=50,
        help="of how many nearest documents of the untuned query they are drawn.",
        group="training",
        identity=True,
        shared=True,
        bounds=Bounds(1, 10_000),
    )
    negative_ceiling: float = setting(
        default=0.95,
        help="""the share of its answer's score above which a document may be an answer that nobody
        judged, and is not drawn.""",
        group="training",
        identity=True,
        shared=True,
        bounds=Bounds(0, 1),
    )
    pool_prompt: bool = setting(
        default=False,
        help="whether the prompt's own positions count when a text's are pooled to its vector.",
        group="prompt",
        identity=True,
        shared=True,
    )

    @property
    def retrieves(self) -> bool:
        """Whether documents are looked for."""
        return self.task_kind == "retrieval"

    @property
    def tunes_documents(self) -> bool:
        """Whether the prompt is before documents too."""
        return self.sides == BOTH


def refuse_retrieval(config: Any, what: str) -> None:
    """Refuses, with a ValueError, retrieval for `what`, which is of text tasks alone."""
    if config.retrieves:
        raise ValueError(
            f"{what} is of text tasks: with {spelled('task_kind', 'retrieval')}, several rates and "
            f"seeds train together as {spelled('runs')} of `prompt-tuning train`."
        )


def check_retrieval(config: Any) -> None:
    """Refuses settings of the other kind of task, and retrieval without a collection."""
    declared = settings_of(type(config))
    own = [name for name in settings_of(RetrievalConfig) if name != "task_kind"]
    others, wanted = (_OF_TEXT, "text") if config.retrieves else (own, "retrieval")
    for name in others:
        if getattr(config, name) != declared[name].default:
            raise ValueError(
                f"{spelled(name)} is for {spelled('task_kind', wanted)}: leave it out"
                + ("." if config.retrieves else f", or set {spelled('task_kind', 'retrieval')}.")
            )
    if not config.retrieves:
        return
    if config.data_dir is None:
        raise ValueError(
            f"{spelled('task_kind', 'retrieval')} needs {spelled('data_dir')}, a folder with "
            "corpus, queries and qrels, or with pairs."
        )
    if config.tunes_documents and config.index is not None:
        raise ValueError(
            f"With {spelled('sides', 'both')} the documents' vectors change as the prompt does: "
            f"leave {spelled('index')} out."
        )
    if str(config.prompt_init).startswith("nearest:"):
        raise ValueError(
            f"{spelled('prompt_init')} {config.prompt_init!r} is for "
            f"{spelled('task_kind', 'text')}: name a prompt's own path."
        )
    if config.hard_negatives > config.negative_depth:
        raise ValueError(
            f"{spelled('hard_negatives')} {config.hard_negatives} cannot be drawn of "
            f"{spelled('negative_depth')} {config.negative_depth}: raise that."
        )
