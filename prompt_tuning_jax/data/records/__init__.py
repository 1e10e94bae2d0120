"""Files of records as people have them: names, encodings, delimiters, quotes, line ends."""

from prompt_tuning_jax.data.records.record_file import FORMATS, Record, RecordFile

__all__ = ["FORMATS", "Record", "RecordFile"]
