"""`python -m prompt_tuning_jax` is `prompt-tuning`."""

from prompt_tuning_jax.commands.cli import main

if __name__ == "__main__":
    main()
