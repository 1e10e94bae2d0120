"""The prompts of a server by their names: on disk, the last ones used in memory.

    library = PromptLibrary(Path("runs"), model, max_prompt_length=100, memory=2**30)
    library.members("topic")  # ("topic",); of an ensemble its members, of "base" none
    library.get("topic")      # a TunedPrompt

Any thread may call anything here. Nothing but `get` reads a prompt's values.
"""

import collections
import contextlib
import difflib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.checkpoints.prompt_file import PREBUILT, load_prompt, save_prompt
from prompt_tuning_jax.checkpoints.prompt_folder import existing_folder
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.serving.library.description import (
    BASE,
    Description,
    check_name,
    described,
)
from prompt_tuning_jax.serving.library.errors import Conflict, UnknownPrompt, Unusable
from prompt_tuning_jax.serving.library.folder_scan import (
    ENSEMBLE,
    Entry,
    Fit,
    Scan,
    ensemble,
    entry,
    scan,
    with_member,
)
from prompt_tuning_jax.serving.library.mirror import Mirror
from prompt_tuning_jax.tuned_prompt import TunedPrompt

Form = Literal["safetensors", "npy"]
_FILES = ("prompt.safetensors", "prompt.json")
_NPY = b"\x93NUMPY"
_SEARCHED = 1000  # names that are compared with a mistyped one


class PromptLibrary:
    """The prompts below a folder, and the ensembles of them.

    Attributes:
      folder: None for a server without prompts.
      notes: a sentence for each thing in the folder that is left out.
    """

    def __init__(
        self,
        folder: Path | Mirror | None,
        model: FrozenModel,
        *,
        max_prompt_length: int,
        memory: int,
        allow_prompt_mismatch: bool = False,
    ):
        """Reads what there is.

        Args:
          folder: "bundled" for the bundled models' prompts; a bucket's copies take none.
          max_prompt_length: in rows.
          memory: bytes of values that are kept once loaded.
          allow_prompt_mismatch: take prompts that were tuned for another model of the same width.

        Raises:
          FileNotFoundError: there is no such folder.
          OSError: the bucket cannot be read.
        """
        self._mirror = folder if isinstance(folder, Mirror) else None
        folder = folder.folder if isinstance(folder, Mirror) else folder
        self.folder = None if folder is None else existing_folder(folder)
        self._fit = Fit(model, max_prompt_length, allow_prompt_mismatch)
        self._memory = memory
        self._lock = threading.Lock()  # for what is below; never held while a file is read
        self._writing = threading.Lock()  # one change of the folder at a time
        self._found = Scan({}, {}, [])
        self._names: tuple[str, ...] = ()
        self._values: collections.OrderedDict[str, tuple[int, TunedPrompt]] = (
            collections.OrderedDict()
        )
        self._bytes = 0
        self.reload()

    @property
    def notes(self) -> list[str]:
        return self._found.notes

    def names(self) -> tuple[str, ...]:
        """All prompts and ensembles, in order; `base` is none of them."""
        return self._names

    def describe(self, name: str) -> Description:
        """What is known of a prompt or an ensemble; of `base`, its name alone.

        Raises:
          UnknownPrompt
        """
        found = self._found
        if name == BASE:
            return Description(BASE)
        if name in found.ensembles:
            return found.ensembles[name]
        return self._entry(name).description

    def members(self, name: str) -> tuple[str, ...]:
        """The prompts that answer together under this name: one, an ensemble's, none of `base`.

        Raises:
          UnknownPrompt
        """
        found = self.describe(name)
        return found.members or (() if name == BASE else (name,))

    def version(self, name: str) -> int:
        """A number that is another one when the prompt's values are others.

        Raises:
          UnknownPrompt: no prompt; ensembles have no values.
        """
        return self._entry(name).version

    def is_at_hand(self, name: str) -> bool:
        """Whether `get` would find a prompt's values in memory."""
        return name in self._values

    def get(self, name: str) -> TunedPrompt:
        """A prompt with its values, read from its file where they are not in memory.

        Raises:
          UnknownPrompt: no prompt; ensembles have no values.
          Unusable: its file is corrupt or gone.
        """
        found = self._entry(name)
        with self._lock:
            kept = self._values.get(name)
            if kept is not None and kept[0] == found.version:
                self._values.move_to_end(name)
                return kept[1]
        try:
            prompt = load_prompt(found.path)
            self._fit.check(prompt)
            prompt = prompt.for_any_model() if self._fit.allow_prompt_mismatch else prompt
        except (ValueError, OSError) as error:
            raise Unusable(f"The prompt {name} cannot be used: {error}") from error
        with self._lock:
            self._forget(name)
            if self._found.prompts.get(name) is found:
                self._values[name] = found.version, prompt
                self._bytes += prompt.values.nbytes
            while self._bytes > self._memory:
                self._forget(next(iter(self._values)))
        return prompt

    def add(self, name: str, content: bytes, form: Form) -> Description:
        """Takes a prompt that was sent, and writes it into the folder.

        One that was sent before under the same name is replaced; a kill leaves the old one or the
        new one.

        Raises:
          ValueError: it cannot be a name, or the content is no prompt for this model.
          Conflict: the folder takes none, or holds something else under this name; an ensemble
            of the one before cannot have it as a member.
          OSError: it cannot be written.
        """
        folder = self._writable(name)
        prompt = _read(content, form)
        self._fit.check(prompt)
        said = described(name, prompt, source="")  # what it says of itself is checked too
        with self._writing:
            if name in self._found.ensembles:
                raise Conflict(f"{name} is an ensemble: remove it first, or choose another name.")
            place, ensembles = self._place(folder, name), self._found.ensembles
            with_member(said, self._found.prompts, ensembles)  # before anything is written
            save_prompt(place, prompt, uploaded=True)
            prompts = {**self._found.prompts, name: entry(name, place, folder, self._fit)}
            self._replace(prompts, with_member(prompts[name].description, prompts, ensembles))
        return prompts[name].description

    def add_ensemble(self, name: str, members: Sequence[str]) -> Description:
        """Gives several prompts a name under which they answer together; it may be replaced.

        Raises:
          ValueError: it cannot be a name, or these cannot be an ensemble.
          Conflict: the folder takes none, or a prompt has this name.
          OSError: it cannot be written.
        """
        folder = self._writable(name)
        path = folder / f"{name}{ENSEMBLE}"
        with self._writing:
            if name in self._found.prompts:
                raise Conflict(f"{name} is a prompt: choose another name.")
            made = ensemble(name, members, self._found.prompts, path.name)
            _check_no_link(path)
            with new_file(path) as partial:
                partial.write_text(json.dumps({"members": list(members)}) + "\n")
            self._replace(ensembles={**self._found.ensembles, name: made})
        return made

    def remove(self, name: str) -> None:
        """Deletes an ensemble, or a prompt that was sent; others' files stay.

        Raises:
          UnknownPrompt
          Conflict: it was not sent to a server, or an ensemble needs it.
          OSError: it cannot be deleted.
        """
        with self._writing:
            found, what = self._found, self.describe(name)
            if name == BASE or self.folder is None:
                raise Conflict(f"{name} is the model itself, and stays.")
            if self._mirror is not None:
                raise Conflict("This server deletes nothing of a bucket: do it there, and reload.")
            if name in found.ensembles:
                (self.folder / f"{name}{ENSEMBLE}").unlink(missing_ok=True)
                rest = {other: x for other, x in found.ensembles.items() if other != name}
                self._replace(ensembles=rest)
                return
            users = [each.name for each in found.ensembles.values() if name in each.members]
            if users:
                raise Conflict(f"{name} is a member of {', '.join(users)}: remove that first.")
            place = found.prompts[name].path
            if not what.uploaded or place.is_symlink():
                raise Conflict(
                    f"{name} was not sent to a server, which deletes nothing of others: take its "
                    "files out of the folder, and reload."
                )
            for file in _FILES:  # the values first: without them it is no prompt
                (place / file).unlink(missing_ok=True)
            shutil.rmtree(place, ignore_errors=True)
            self._replace(prompts={k: x for k, x in found.prompts.items() if k != name})

    def reload(self) -> list[str]:
        """Looks again at what the folder holds; `notes` says what is left out.

        Raises:
          OSError: the folder cannot be read.
        """
        with self._writing:
            if self._mirror:
                self._mirror.update()
            if self.folder is not None:
                found = scan(existing_folder(self.folder), self._fit, self._found.prompts)
                self._replace(found.prompts, found.ensembles, found.notes)
        return self.notes

    def _entry(self, name: str) -> Entry:
        found = self._found.prompts.get(name)
        if found is None:
            raise UnknownPrompt(f"There is no prompt {name[:200]!a}{self._nearest(name)}")
        return found

    def _nearest(self, name: str) -> str:
        names: Sequence[str] = self.names()
        if len(names) > _SEARCHED:  # a comparison takes its time, and anybody may ask
            names = [other for other in names if other[:3] == name[:3]][:_SEARCHED]
        near = difflib.get_close_matches(name[:200], names, n=3)
        return f"; did you mean {' or '.join(near)}?" if near else "."

    def _replace(
        self,
        prompts: dict[str, Entry] | None = None,
        ensembles: dict[str, Description] | None = None,
        notes: list[str] | None = None,
    ) -> None:
        """What is found is exchanged as a whole, so that readers need no lock."""
        old = self._found
        with self._lock:
            self._found = Scan(
                old.prompts if prompts is None else prompts,
                old.ensembles if ensembles is None else ensembles,
                old.notes if notes is None else notes,
            )
            self._names = tuple(sorted([*self._found.prompts, *self._found.ensembles]))
            for name, (version, _) in list(self._values.items()):
                now = self._found.prompts.get(name)
                if now is None or now.version != version:
                    self._forget(name)

    def _forget(self, name: str) -> None:
        if (kept := self._values.pop(name, None)) is not None:
            self._bytes -= kept[1].values.nbytes

    def _writable(self, name: str) -> Path:
        """The folder, for something of this name."""
        check_name(name, parts=1)
        if self.folder is None or self.folder == PREBUILT or self._mirror is not None:
            raise Conflict(
                "This server takes no prompts: its own are not in a folder of its user's. Start it "
                "with one."
            )
        return self.folder

    def _place(self, folder: Path, name: str) -> Path:
        """The directory for a prompt that was sent; nothing of others' is in it."""
        place, known = folder / name, self._found.prompts.get(name)
        if known is not None and (known.path != place or not known.description.uploaded):
            raise Conflict(
                f"{name} was not sent to a server, which replaces nothing of others: choose "
                "another name."
            )
        for path in (place, *(place / file for file in _FILES)):
            _check_no_link(path)
        if known is None and place.exists():
            # What was cut short by a kill has a name that begins with a dot, or no values.
            others = (file for file in os.listdir(place) if file[0] != "." and file != _FILES[1])
            if any(others) and not self._was_sent(place, name):
                raise Conflict(f"The folder holds something else called {name}: choose another.")
        return place

    def _was_sent(self, place: Path, name: str) -> bool:
        """Whether another server put it there, of which this one has not heard yet."""
        with contextlib.suppress(ValueError, OSError):
            return entry(name, place, place.parent, self._fit).description.uploaded
        return False


def _check_no_link(path: Path) -> None:
    if path.is_symlink():
        raise Conflict(f"{path.name} is a link, which nothing is written through.")


def _read(content: bytes, form: Form) -> TunedPrompt:
    """The prompt in a file's bytes.

    Raises:
      ValueError: there is none; arrays of Python objects are none.
    """
    if content.startswith(_NPY) != (form == "npy"):
        raise ValueError(f"This is no {form} file.")
    with tempfile.TemporaryDirectory(prefix="prompt_tuning_") as directory:
        path = Path(directory) / f"upload.{form}"
        path.write_bytes(content)
        try:
            prompt = load_prompt(path)
        except (ValueError, OSError) as error:
            raise ValueError(str(error).replace(str(path), "What was sent")) from error
    return prompt
