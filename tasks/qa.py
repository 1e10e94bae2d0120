"""Question answering: SQuAD, the twelve data sets of MRQA 2019, and domain shift between them.

A prompt that is tuned on SQuAD answers questions about other texts: each mixture `squad_to_NAME`
trains on SQuAD and is evaluated on SQuAD and on one of MRQA's six out-of-domain sets, which have no
training part; `squad_to_mrqa` on all six. `mrqa_in_domain_v100` and `mrqa_v100` train on MRQA's own
six training sets; the second is evaluated on all twelve.

Each name also exists with `_examples` after it (`tasks.generation_forms`).
"""

from collections.abc import Mapping

import seqio
import tensorflow as tf

from prompt_tuning_jax.tasks import metrics, postprocessors
from prompt_tuning_jax.tasks.generation_forms import add_forms, add_mixture_forms
from prompt_tuning_jax.tasks.qa_release import MrqaRelease, SquadRelease
from prompt_tuning_jax.tasks.registration import ReleaseOrTfds

SQUAD = "squad_v010_allanswers"
SCORED = {"postprocess": postprocessors.qa, "metrics": [metrics.squad]}

# TFDS's name -> the release file's, and other names that it goes by.
IN_DOMAIN = {
    "squad": ("SQuAD",),
    "news_qa": ("NewsQA",),
    "trivia_qa": ("TriviaQA-web", "TriviaQA"),
    "search_qa": ("SearchQA",),
    "hotpot_qa": ("HotpotQA",),
    "natural_questions": ("NaturalQuestionsShort", "NaturalQuestions"),
}
OUT_OF_DOMAIN = {
    "bio_asq": ("BioASQ",),
    "drop": ("DROP",),
    "duo_rc": ("DuoRC.ParaphraseRC", "DuoRC"),
    "race": ("RACE",),
    "relation_extraction": ("RelationExtraction",),
    "textbook_qa": ("TextbookQA",),
}


def spaced(text: tf.Tensor) -> tf.Tensor:
    """The text with a space on either side of every ASCII punctuation mark, as T5 reads SQuAD."""
    text = tf.strings.regex_replace(text, r"([[:punct:]])", r" \1 ")
    return tf.strings.regex_replace(text, r"\s+", " ")


def _with_texts(record: dict, answers: tf.Tensor) -> dict:
    """`record` with "question: ... context: ..." as `inputs` and the first answer as `targets`."""
    question, context, answers = (
        spaced(text) for text in (record["question"], record["context"], answers)
    )
    inputs = tf.strings.join(["question:", question, "context:", context], separator=" ")
    return {
        "inputs": tf.strings.regex_replace(inputs, r"\s+", " "),
        "targets": answers[0],
        "question": question,
        "context": context,
        "answers": answers,
    }


@seqio.map_over_dataset
def squad(record: dict) -> dict:
    """SQuAD's record -> T5's texts, with all `answers`, `question`, `context` and `id`."""
    return _with_texts(record, record["answers"]["text"]) | {"id": record["id"]}


@seqio.map_over_dataset
def mrqa(record: dict) -> dict:
    """MRQA's record -> the same, with its `idx` and the first `answer`."""
    texts = _with_texts(record, record["answers"])
    return texts | {"idx": record["qid"], "answer": texts["targets"]}


def mrqa_task(name: str) -> str:
    return f"mrqa_{name}_v100"


def register_mrqa(name: str, reader: MrqaRelease, splits: Mapping[str, str] | None = None) -> None:
    source = ReleaseOrTfds(f"mrqa/{name}:1.0.0", reader, splits)
    add_forms(mrqa_task(name), source, [mrqa], **SCORED)


add_forms(SQUAD, ReleaseOrTfds("squad/v1.1:3.0.0", SquadRelease()), [squad], **SCORED)
for _name, _files in IN_DOMAIN.items():
    register_mrqa(_name, MrqaRelease(_files, ("train", "validation")))
for _name, _files in OUT_OF_DOMAIN.items():
    register_mrqa(_name, MrqaRelease(_files, ("test",)), splits={"validation": "test"})
    add_mixture_forms(f"squad_to_{_name}", [SQUAD, mrqa_task(_name)])

_in_domain = [mrqa_task(name) for name in IN_DOMAIN]
_out_of_domain = [mrqa_task(name) for name in OUT_OF_DOMAIN]
add_mixture_forms("squad_to_mrqa", [SQUAD, *_out_of_domain])
add_mixture_forms("mrqa_in_domain_v100", _in_domain)
add_mixture_forms("mrqa_v100", [*_in_domain, *_out_of_domain])
