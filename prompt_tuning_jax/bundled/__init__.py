"""The bundled model and its prompts, the worlds that it was trained on, and the bundled tasks."""
