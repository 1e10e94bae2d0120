"""What a run trains: a prompt, the whole model, or an adapter within the frozen network."""

from collections.abc import Sequence

from prompt_tuning_jax.bounds import SIZE, Bounds
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.methods.adapters import prefix
from prompt_tuning_jax.methods.adapters.choice import NAMES
from prompt_tuning_jax.methods.adapters.method import Options
from prompt_tuning_jax.settings.common import LengthConfig
from prompt_tuning_jax.settings.setting import setting, settings, settings_of

BOTH = "both_prompts"
# The methods that train `prompt_length` vectors.
OF_LENGTH = ("prompt", "prefix", "decoder_prompt", BOTH)
# The settings of one method alone -> that method.
OWN = {
    "lora_rank": "lora",
    "lora_alpha": "lora",
    "rslora": "lora",
    "lora_targets": "lora",
    "prefix_stack": "prefix",
}


@settings
class MethodConfig(LengthConfig):
    """The method of a run, and what is its own."""

    method: str | None = setting(
        default=None,
        help="""what trains: prompt; model, all weights; or, within the frozen network, lora, ia3,
        prefix (prompt_length keys and values in every layer), bitfit (biases), decoder_prompt (of a
        T5) or both_prompts. None: a prompt, or the model where prompt_length is 0.""",
        group="training",
        choices=("prompt", "model", *NAMES, BOTH),
        identity=True,
        shared=True,
    )
    lora_rank: int = setting(
        default=8,
        help="r of LoRA's matrices [in, r] and [r, out].",
        group="training",
        identity=True,
        shared=True,
        bounds=SIZE,
    )
    lora_alpha: float = setting(
        default=16.0,
        help="their product counts alpha / r times.",
        group="training",
        identity=True,
        shared=True,
        bounds=Bounds(1e-6, 1e6),
    )
    rslora: bool = setting(
        default=False,
        help="their product counts alpha / sqrt(r) times instead.",
        group="training",
        identity=True,
        shared=True,
    )
    lora_targets: Sequence[str] | None = setting(
        default=None,
        help="""the products that LoRA changes: some of query key value out wi wo, of GPT-2 qkv out
        wi wo. None: query value, of GPT-2 qkv.""",
        group="training",
        identity=True,
        shared=True,
    )
    prefix_stack: str = setting(
        default="decoder",
        help="where a prefix stands in an encoder-decoder: decoder, encoder or both.",
        group="training",
        choices=prefix.STACKS,
        identity=True,
        shared=True,
    )

    wayward_text: str | None = setting(
        default=None,
        help="""a text near whose embedding the prompt is to stay while it learns: the squared
        distance of their rows comes to the loss (wayward prompts).""",
        group="training",
        identity=True,
        shared=True,
    )
    wayward_weight: float = setting(
        default=0.01,
        help="how many times it counts.",
        group="training",
        identity=True,
        shared=True,
        bounds=Bounds(0, 1e6),
    )

    @property
    def input_rows(self) -> int:
        """P of the prompt that trains at the input; 0 where there is none."""
        return self.prompt_length if self.method in (None, "prompt", BOTH) else 0

    @property
    def trains(self) -> str:
        """What trains: the method, or what None stands for."""
        return self.method or ("prompt" if self.prompt_length else "model")

    @property
    def adapter(self) -> str | None:
        """The method, where it trains leaves within the network."""
        if self.method == BOTH:
            return "decoder_prompt"
        return self.method if self.method in NAMES else None

    @property
    def adapter_options(self) -> Options:
        return Options(
            rank=self.lora_rank,
            alpha=self.lora_alpha,
            rslora=self.rslora,
            targets=self.lora_targets,
            length=self.prompt_length,
            stack=self.prefix_stack,
        )


def check_method(config: MethodConfig) -> None:
    """Refuses settings that would change nothing, before anything is loaded."""
    declared = settings_of(MethodConfig)
    for name, method in OWN.items():
        if config.method != method and getattr(config, name) != declared[name].default:
            raise ValueError(
                f"{spelled(name)} is for {spelled('method', method)}: leave it out, or set that."
            )
    usual = declared["prompt_length"].default
    if config.wayward_weight != declared["wayward_weight"].default and config.wayward_text is None:
        raise ValueError(f"{spelled('wayward_weight')} is for {spelled('wayward_text')}: set it.")
    if config.wayward_text is not None and not config.input_rows:
        raise ValueError(
            f"{spelled('wayward_text')} pulls a prompt at the input: set "
            f"{spelled('prompt_length')} above 0, and leave out {spelled('method', config.method)}."
        )
    has_vectors = config.method in OF_LENGTH
    if has_vectors and not config.prompt_length:
        raise ValueError(
            f"{spelled('method', config.method)} trains {spelled('prompt_length')} vectors: set it "
            "above 0."
        )
    if config.method and not has_vectors and config.prompt_length not in (0, usual):
        raise ValueError(
            f"{spelled('method', config.method)} has no prompt: leave "
            f"{spelled('prompt_length')} out."
        )
