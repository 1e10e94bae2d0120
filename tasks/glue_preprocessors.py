"""From GLUE's and SuperGLUE's records to `inputs` and `targets` texts, as T5 writes them.

T5's form begins with the task's name and names each field: "rte hypothesis: ... premise: ...". The
paper's form is without the task's name (`without_task_name`). An unlabelled record's target is
"<unk>". Features that evaluation asks for (`idx`, `answers`, `label`) go along.
"""

from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

from prompt_tuning_jax.tasks.model_vocabulary import Sentinels

UNKNOWN = "<unk>"
NO_PRONOUN = "WSC: no `span2_text` at word `span2_index` of"

Example = Mapping[str, tf.Tensor]
Preprocessor = Callable[[tf.data.Dataset], tf.data.Dataset]


def classification(
    task: str, fields: Mapping[str, str] | Sequence[str], labels: Sequence[str]
) -> Preprocessor:
    """{field: text, ..., label, idx} -> "task field: text ..." and the label's name.

    Args:
      fields: the fields in the order of the text; as a mapping, from the name in the text to that
        in the record.
    """
    named = fields if isinstance(fields, Mapping) else {field: field for field in fields}

    @seqio.map_over_dataset
    def preprocess(example: Example) -> Example:
        parts = [task]
        for name, field in named.items():
            parts += [f"{name}:", example[field]]
        return {
            "idx": example["idx"],
            "inputs": tf.strings.join(parts, " "),
            "targets": _label_name(example["label"], labels),
        }

    return preprocess


def _label_name(label: tf.Tensor, labels: Sequence[str]) -> tf.Tensor:
    return tf.gather([UNKNOWN, *labels], label + 1)  # unlabelled is -1


@seqio.map_over_dataset
def multirc(example: Example) -> Example:
    """One example an answer, without the passage's HTML; `idx/question` is what groups them."""
    names = ("question", "answer", "paragraph")
    parts = [part for name in names for part in (f"{name}:", example[name])]
    text = tf.strings.join(["multirc", *parts], " ")
    text = tf.strings.regex_replace(text, "<br>", " ")
    return {
        **{f"idx/{name}": number for name, number in example["idx"].items()},
        "inputs": tf.strings.regex_replace(text, "</?b>", ""),
        "targets": _label_name(example["label"], ("False", "True")),
    }


def record(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """One example an answer, each with all `answers`; a query without answers makes one."""
    return dataset.flat_map(_record_examples)


def _record_examples(example: Example) -> tf.data.Dataset:
    # The passage ends in highlights; each becomes a sentence of its own.
    passage = tf.strings.regex_replace(example["passage"], r"""([.?!"'])\n@highlight\n""", r"\1 ")
    passage = tf.strings.regex_replace(passage, r"\n@highlight\n", ". ")
    entities = tf.strings.reduce_join(example["entities"], separator=", ")
    parts = ["record query:", example["query"], "entities:", entities, "passage:", passage]
    shared = {
        **{f"idx/{name}": number for name, number in example["idx"].items()},
        "inputs": tf.strings.join(parts, " "),
        "answers": example["answers"],
    }
    targets = tf.cond(
        tf.size(example["answers"]) > 0, lambda: example["answers"], lambda: tf.constant([UNKNOWN])
    )
    return tf.data.Dataset.from_tensor_slices(targets).map(lambda each: {**shared, "targets": each})


@seqio.map_over_dataset
def stsb(example: Example) -> Example:
    """The target is the similarity rounded to a fifth: "3.8"."""
    parts = ["stsb sentence1:", example["sentence1"], "sentence2:", example["sentence2"]]
    rounded = tf.round(example["label"] * 5) / 5
    return {
        "idx": example["idx"],
        "inputs": tf.strings.join(parts, " "),
        "targets": tf.strings.as_string(rounded, precision=1),
    }


@seqio.map_over_dataset
def wsc(example: Example) -> Example:
    """WSC as classification: "* candidate *" and "# pronoun #" are marked in the text."""
    first, second = example["span1_index"], example["span2_index"]
    text = _mark(example["text"], first, example["span1_text"], "*")
    # The first pair of marks are two more words before the second span.
    moved = second + 2 * tf.cast(first < second, second.dtype)
    text = _mark(text, moved, example["span2_text"], "#")
    return {
        "idx": example["idx"],
        "inputs": tf.strings.join(["wsc text:", text], " "),
        "targets": _label_name(example["label"], ("False", "True")),
    }


def _mark(text: tf.Tensor, index: tf.Tensor, span: tf.Tensor, mark: str) -> tf.Tensor:
    words_before = tf.strings.join([r"^((?:\S+\s){", tf.strings.as_string(index), "})"])
    pattern = tf.strings.join([words_before, r"(\Q", span, r"\E)"])
    return tf.strings.regex_replace(text, pattern, rf"\1{mark} \2 {mark}")


def wsc_simple(dataset: tf.data.Dataset, *, true_only: bool) -> tf.data.Dataset:
    """WSC as generation: the pronoun is marked, "*it*", and the target is the candidate.

    The candidate is what the pronoun refers to only where the label is 1, so a model trains with
    `true_only`, and is scored on all records by whether it names the candidate where it should.
    """
    if true_only:
        dataset = dataset.filter(lambda example: tf.equal(example["label"], 1))
    return _wsc_generation(dataset)


@seqio.map_over_dataset
def _wsc_generation(example: Example) -> Example:
    return {
        "inputs": tf.strings.join(["wsc:", _pronoun_marked(example)], " "),
        "targets": tf.reshape(example["span1_text"], ()),
        "label": example["label"],
        "idx": example["idx"],
    }


def _pronoun_marked(example: Example) -> tf.Tensor:
    """The text with asterisks around its word number `span2_index`.

    Of the released texts, one has the pronoun a word later than its index says, and in one it is
    followed by punctuation without a blank; T5 sets such punctuation apart and drops what blanks
    end the text. A pronoun that is the first word has no blank before it.
    """
    words, pronoun = tf.strings.split(example["text"], sep=" "), example["span2_text"]
    index, length = example["span2_index"], tf.strings.length(pronoun)
    begins = tf.concat([tf.equal(tf.strings.substr(words, 0, length), pronoun), [False]], 0)
    index += tf.cast(tf.logical_not(begins[index]), index.dtype)
    found = tf.debugging.Assert(begins[index], [NO_PRONOUN, example["text"]])
    with tf.control_dependencies([found]):
        word = tf.identity(words[index])
    rest = tf.strings.substr(word, length, tf.strings.length(word))
    apart = tf.greater(tf.strings.length(rest), 0)
    before = tf.strings.reduce_join(words[:index], separator=" ")
    after = tf.strings.reduce_join(words[index + 1 :], separator=" ")
    marked = tf.strings.join(["*", pronoun, "*"])
    text = tf.strings.join([before, marked, after], " ")
    text_apart = tf.strings.join([before, marked, rest, after], " ")
    text = tf.where(apart, tf.strings.regex_replace(text_apart, " +$", ""), text)
    return tf.where(tf.equal(index, 0), tf.strings.regex_replace(text, "^ ", ""), text)


@seqio.map_over_dataset
def definite_pronoun_resolution(example: Example) -> Example:
    """DPR as WSC is generated: the pronoun's first occurrence is marked."""
    pattern = tf.strings.join([r" (\Q", example["pronoun"], r"\E)( |\.|,)"])
    text = tf.strings.regex_replace(example["sentence"], pattern, r" *\1*\2", replace_global=False)
    return {
        "inputs": tf.strings.join(["wsc:", text], " "),
        "targets": example["candidates"][example["label"]],
    }


@seqio.map_over_dataset
def without_task_name(example: Example) -> Example:
    """The paper's form: `inputs` without its first word."""
    inputs = tf.strings.regex_replace(example["inputs"], "^[^ ]* ", "", replace_global=False)
    return {**example, "inputs": inputs}


def sentinel_first(field: str, number: int = 0) -> Preprocessor:
    """A token preprocessor that begins `field` with the sentinel `<extra_id_number>`."""

    def preprocess(
        dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]
    ) -> tf.data.Dataset:
        sentinel = Sentinels.of(output_features[field].vocabulary).sentinel(number)

        @seqio.map_over_dataset
        def prepend(example: Example) -> Example:
            tokens = example[field]
            return {**example, field: tf.concat([tf.constant([sentinel], tokens.dtype), tokens], 0)}

        return prepend(dataset)

    return preprocess
