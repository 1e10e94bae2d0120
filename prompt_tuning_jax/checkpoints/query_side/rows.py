"""The file of a prompt's rows in an exported model, by which its writer and reader agree."""

FILE = "prompt_rows.safetensors"
TENSOR = "prompt"
POOL = "pool_prompt"  # in its metadata, "True" or "False": whether the rows count in the pooling
