"""What a run of T5X binds: `python -m t5x.train`, `t5x.eval` and `t5x.infer` with our network.

The gin files in `gin_configs/t5x` bind everything here; nothing is put into T5X's own code.

    run.py           how a run begins, and how it ends when it fails
    task.py          the task: the model's vocabulary, its data, its label words
    together.py      several tasks, mixed
    methods/         what trains: a prompt, or another method of the files of `methods/`
    optimizer.py     what trains, by the rules of `prompt_tuning_jax.optim`, as a T5X optimizer
    restore.py       the base checkpoint, and what it lacks: what is tuned and its optimizer state
    leaves.py        which leaves are tuned
    resume.py        the training data of a run that continues
    start.py         where the prompt starts; what its file or checkpoint says about it
    save.py          what is tuned, written beside T5X's checkpoints; prompts read from any path
    files.py         where these files are, local or remote
    partitioning.py  the mesh, and the prompt's logical axes
"""
