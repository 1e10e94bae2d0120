"""Many prompts, one frozen model: each record names its prompt, and one batch answers them all.

Half a minute. The same from the command line: `prompt-tuning infer --help`.
"""

import argparse

import prompt_tuning_jax as pt

RECORDS = (
    ("bundled_topic", "I dined at the Wild Bear, and the cook was remarkable."),
    ("bundled_sentiment", "The soup was cold and the waiter was rude."),
    ("bundled_sentiment", "Edward took a room at the Holly Palace. The bed was lovely."),
    ("bundled_topic", "Edward took a room at the Holly Palace. The bed was awful."),
)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    model = pt.load_model("bundled")
    bank = pt.load_bank(["bundled_sentiment", "bundled_topic"])
    names, texts = zip(*RECORDS, strict=True)
    # Each text has its own prompt and its own labels; the frozen model runs once over the batch.
    labels = [bank.prompts[name].metadata["verbalizers"] for name in names]
    answers = model.classify(texts, labels, prompt=bank.rows(names)).labels
    for name, text, answer in zip(names, texts, answers, strict=True):
        print(f"{name:18} {answer:10} {text}")

    alone = [
        model.classify([text], bank.prompts[name].metadata["verbalizers"], bank.prompts[name])
        for name, text in RECORDS
    ]
    assert answers == [one.labels[0] for one in alone], "a row equals the row computed alone"


if __name__ == "__main__":
    main()
