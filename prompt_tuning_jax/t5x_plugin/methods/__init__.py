"""What may train in a prompt's place under T5X, or beside it. The files of `methods/` choose.

choice.py      the method of a run, and what follows of it: rules, learning rate, model, start
method.py      what a method says of itself; prompt tuning is the usual one
network.py     a network with leaves beside its own, called as T5X calls its module
loss.py        a model of T5X's with another loss
adapter.py     leaves within the frozen network: IA3, prefixes of every layer, LoRA, BitFit
multi_task.py  prompts of several tasks, with a part in common
wayward.py     a prompt that stays near a text
labels.py      losses over the answers that a task allows
"""
