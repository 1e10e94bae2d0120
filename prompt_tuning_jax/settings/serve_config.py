"""What the server takes."""

from collections.abc import Mapping

from prompt_tuning_jax.bounds import COUNT, PROMPT_LENGTH, ROWS, TOKENS, Bounds
from prompt_tuning_jax.settings.common import DeviceConfig, MismatchConfig, ModelConfig
from prompt_tuning_jax.settings.setting import PathLike, setting, settings

# 0 lets the system choose one that is free.
PORT = Bounds(0, 65535)
# A day; whoever waits longer has lost its connection.
SECONDS = Bounds(1e-3, 86400)
# Of memory: no host has more than a few of the larger number.
MEGABYTES = Bounds(1, 2**23)
# Of one kind, in one machine.
RESOURCES = Bounds(0, 2**16)


@settings
class AddressConfig:
    """Where the server listens, and to whom."""

    host: str = setting(
        default="127.0.0.1",
        help="""the address to listen at. Another than this machine's own needs a token: in a file
        that token_file names, or in the environment as PROMPT_TUNING_TOKEN.""",
        group="server",
        first=True,
    )
    port: int = setting(
        default=8000,
        help="the port to listen at; 0 for any that is free.",
        group="server",
        first=True,
        bounds=PORT,
    )
    token_file: PathLike | None = setting(
        default=None,
        help="a file that holds the token that requests show as `Authorization: Bearer TOKEN`.",
        group="server",
        first=True,
    )
    allow_no_token: bool = setting(
        default=False,
        help="whether everybody who reaches host may ask, without a token.",
        group="server",
    )
    request_timeout: float = setting(
        default=60.0,
        help="seconds that a request may take; its header X-Request-Timeout may say fewer.",
        group="server",
        bounds=SECONDS,
    )
    max_waiting: int = setting(
        default=1024,
        help="the most requests that wait; further ones are told when to try again.",
        group="server",
        bounds=COUNT,
    )
    max_wait: float = setting(
        default=10.0,
        help="""seconds that a request is expected to wait for its turn at most, by how fast others
        go; further ones are told when to try again.""",
        group="server",
        bounds=SECONDS,
    )
    max_texts: int = setting(
        default=128,
        help="the most texts in one request.",
        group="server",
        bounds=ROWS,
    )
    max_upload: int = setting(
        default=64,
        help="the most megabytes of a prompt that is sent to the server.",
        group="server",
        bounds=MEGABYTES,
    )


@settings
class ShapeConfig:
    """For which sizes the server compiles its programs as it starts."""

    max_input_length: int = setting(
        default=512,
        help="the longest text, in tokens; longer ones are refused.",
        group="server",
        first=True,
        bounds=TOKENS,
    )
    max_length: int = setting(
        default=128,
        help="the most tokens to generate, EOS included; a request may ask for fewer.",
        group="server",
        first=True,
        bounds=TOKENS,
    )
    max_prompt_length: int = setting(
        default=128,
        help="the longest prompt, in vectors.",
        group="server",
        bounds=Bounds(1, PROMPT_LENGTH.most),
    )
    max_labels: int = setting(
        default=64, help="the most labels to choose from.", group="server", bounds=ROWS
    )
    max_label_length: int = setting(
        default=32,
        help="the longest label, in tokens, EOS included.",
        group="server",
        bounds=TOKENS,
    )
    batch_size: int = setting(
        default=32,
        help="how many texts are read at once; the members of an ensemble count.",
        group="server",
        bounds=ROWS,
    )
    slots: int = setting(
        default=64,
        help="how many texts are generated at once.",
        group="server",
        bounds=ROWS,
    )
    device_prompts: int = setting(
        default=256,
        help="""how many prompts are on the devices at once, those in front with their keys and
        values; others wait in memory or on disk.""",
        group="server",
        bounds=ROWS,
    )
    prompt_memory: int = setting(
        default=1024,
        help="megabytes of this machine's memory for prompts that were read from disk.",
        group="server",
        bounds=MEGABYTES,
    )


@settings
class ClusterConfig:
    """More than one engine, as an application of Ray Serve."""

    ray: bool = setting(
        default=False,
        help="""whether to serve as an application of Ray: in the cluster that RAY_ADDRESS names,
        or else in one of its own on this machine.""",
        group="server",
    )
    replicas: int = setting(
        default=1,
        help="how many engines there are at least, each in a process with its own model.",
        group="server",
        bounds=COUNT,
    )
    max_replicas: int | None = setting(
        default=None,
        help="""the most engines: Ray starts further ones while each has more requests than slots.
        None: as many as replicas.""",
        group="server",
        bounds=COUNT,
    )
    replica_resources: Mapping[str, float] | None = setting(
        default=None,
        help="what Ray reserves for an engine, such as GPU=1 or TPU=4; None: CPU=1.",
        group="server",
        bounds=RESOURCES,
    )


@settings
class ServeConfig(
    AddressConfig, ShapeConfig, ClusterConfig, MismatchConfig, DeviceConfig, ModelConfig
):
    """What `prompt-tuning serve` takes."""

    prompts: PathLike | None = setting(
        default=None,
        help="""the folder of the prompts, such as runs/, which is also where prompts go that are
        sent to the server; or a bucket, such as gs://bucket/prompts, to which none can be sent;
        None: those that come with a bundled model.""",
        group="prompt",
        first=True,
    )
    mesh: str = setting(
        default="model:-1",
        help="""the devices: "model:4" splits the model over four, "data:4" has it on each of four,
        which share the texts, and "data:2,model:2" is both; -1 takes all.""",
        group="devices",
    )
