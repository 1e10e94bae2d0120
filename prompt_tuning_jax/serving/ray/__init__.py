"""The server as a Ray Serve application: `serve run prompt_tuning_jax.serving.ray:app`."""

from typing import Any

from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.serve_config import ServeConfig


def app(arguments: dict[str, Any]) -> Any:
    """The application of settings by their names, as `serve run` and Ray's config files give them.

    Raises:
      UsageError: an unknown setting, or a value that it cannot have.
    """
    from prompt_tuning_jax.serving.ray.application import application  # of an extra

    return application(settings_of(arguments))


def settings_of(arguments: dict[str, Any]) -> ServeConfig:
    """Settings by their names; one of several words is a list of them.

    Raises:
      UsageError: an unknown setting, or a value that it cannot have.
    """
    given = []
    for name, value in arguments.items():
        words = value if isinstance(value, list) else [value]
        given += [f"--{name}", *map(str, words)]
    return parse(ServeConfig, given, "", "serve run")
