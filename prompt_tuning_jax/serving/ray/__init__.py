"""The server as a Ray Serve application: `serve run prompt_tuning_jax.serving.ray:app`."""

from typing import Any


def app(arguments: dict[str, Any]) -> Any:
    """The application of settings by their names, as `serve run` and Ray's config files give them.

    A setting of several words is a list, such as `replica_resources: [GPU=1, CPU=4]`.

    Raises:
      UsageError: an unknown setting, or a value that it cannot have.
    """
    from prompt_tuning_jax.serving.ray.application import application  # of an extra
    from prompt_tuning_jax.settings.command_line import parse
    from prompt_tuning_jax.settings.serve_config import ServeConfig

    given = []
    for name, value in arguments.items():
        words = value if isinstance(value, list) else [value]
        given += [f"--{name}", *map(str, words)]
    return application(parse(ServeConfig, given, "", "serve run"))
