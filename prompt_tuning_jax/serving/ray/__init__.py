"""The server as a Ray Serve application: `serve run prompt_tuning_jax.serving.ray:app`."""

from typing import Any


def app(arguments: dict[str, str]) -> Any:
    """The application of settings by their names, as `serve run` and Ray's config files give them.

    Raises:
      UsageError: an unknown setting, or a value that it cannot have.
    """
    from prompt_tuning_jax.serving.ray.application import application  # of an extra
    from prompt_tuning_jax.settings.command_line import parse
    from prompt_tuning_jax.settings.serve_config import ServeConfig

    given = [f"--{name}={value}" for name, value in arguments.items()]
    return application(parse(ServeConfig, given, "", "serve run"))
