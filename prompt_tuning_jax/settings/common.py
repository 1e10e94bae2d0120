"""Settings that several commands take."""

from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning_jax.bounds import PROMPT_LENGTH, TOKENS
from prompt_tuning_jax.data.files import MISSING
from prompt_tuning_jax.layout import LAYOUTS
from prompt_tuning_jax.settings.setting import PathLike, setting, settings

PREDICTIONS = ("rank", "generate")


@settings
class VocabularyConfig:
    """Where the model's words are."""

    vocabulary: PathLike | None = setting(
        default=None,
        help="the model's tokenizer.json or spiece.model, where its directory holds none.",
        group="model",
        shared=True,
    )


@settings
class ModelConfig(VocabularyConfig):
    """Which frozen model."""

    model: Any = setting(
        default="bundled",
        help="""the frozen model: "bundled", "bundled_causal", a Hugging Face directory, a T5X
        checkpoint, a hub name or, in Python, a `FrozenModel`.""",
        group="model",
        first=True,
        shared=True,
    )


@settings
class DeviceConfig:
    """Where and in which precision the model runs."""

    mesh: str = setting(
        default="data:-1",
        help="""the devices to run on, such as "data:4,model:2"; -1 takes the remaining ones.""",
        group="devices",
        shared=True,
    )
    model_dtype: Any = setting(
        default="float32",
        help="""of the frozen weights and the activations, "float32" or "bfloat16"; "int8" is for
        the weights alone and takes a quarter of float32's memory.""",
        group="devices",
        shared=True,
    )


@settings
class FormConfig:
    """How a record becomes an input, and what may be answered."""

    input_template: str | None = setting(
        default=None,
        help="""makes the input from a record's fields, such as "sentence: {sentence}".""",
        group="data",
        first=True,
        identity=True,
    )
    verbalizers: Mapping[str, str] | Sequence[str] | None = setting(
        default=None,
        help="""raw label=word for each label, such as 0=negative 1=positive, or the legal answers.
        For inference only the words count; None: those that the prompt's file records.""",
        group="data",
        first=True,
        identity=True,
    )


@settings
class FileFormConfig:
    """How files of records are written."""

    columns: Sequence[str] | None = setting(
        default=None,
        help="names of the columns of files without a header.",
        group="data",
        identity=True,
    )
    encoding: str | None = setting(
        default=None,
        help="""of the files, such as cp1252 or utf-16, which Excel saves; None: UTF-8.""",
        group="data",
        identity=True,
    )
    delimiter: str | None = setting(
        default=None,
        help="""what divides the cells of .csv and .tsv files, such as ';' or 'tab'; None: what the
        header shows.""",
        group="data",
        identity=True,
    )
    missing: str | None = setting(
        default=None,
        help="""records without a value (null, NaN, a cell such as NULL) are refused; "drop" leaves
        them out, "empty" takes it for an empty text, "text" takes such a cell for a word.""",
        group="data",
        choices=MISSING,
        identity=True,
    )


@settings
class PredictionConfig:
    """How an answer is found."""

    predictions: str | None = setting(
        default=None,
        help=""""rank" scores the verbalizers and takes the best; "generate" decodes text. None:
        rank where there are verbalizers.""",
        group="evaluation",
        choices=PREDICTIONS,
        identity=True,
    )


@settings
class MismatchConfig:
    """Whether a prompt must belong to the model."""

    allow_prompt_mismatch: bool = setting(
        default=False,
        help="use prompts that were tuned for another model or vocabulary.",
        group="prompt",
    )


@settings
class LengthConfig:
    """How long the prompt is."""

    prompt_length: int = setting(
        default=100,
        help="P, the number of vectors; 0 for no prompt (model tuning).",
        group="prompt",
        first=True,
        identity=True,
        shared=True,
        bounds=PROMPT_LENGTH,
    )


@settings
class LayoutConfig:
    """Where the prompt's rows stand."""

    prompt_layout: str = setting(
        default="prefix",
        help="where its rows stand: prefix, after_bos, suffix or suffix_before_eos.",
        group="prompt",
        choices=LAYOUTS,
        identity=True,
        shared=True,
    )


@settings
class FeatureLengthsConfig:
    """How long an example may be."""

    feature_lengths: Mapping[str, int] | None = setting(
        default=None,
        help="""the longest inputs and targets in tokens, EOS included; the prompt comes on top.
        None: inputs=512 targets=64.""",
        group="data",
        identity=True,
        bounds=TOKENS,
    )


@settings
class TextPromptConfig:
    """A prompt of words."""

    text_prompt: str | None = setting(
        default=None,
        help="""a hand-written prompt around the input, such as "Is it good? {input}".""",
        group="prompt",
    )
