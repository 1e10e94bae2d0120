"""An engine that says what a test wrote for it, as slowly or wrongly as the test wants."""

import contextlib
import queue
import threading
import time
from types import SimpleNamespace

import numpy as np
import uvicorn

from prompt_tuning_jax.data.encoding import check_distinct
from prompt_tuning_jax.evaluation.answers import ranked_answer
from prompt_tuning_jax.serving.http.app import make_app
from prompt_tuning_jax.serving.http.limits import MIB, HttpSettings
from prompt_tuning_jax.serving.library import PromptLibrary
from prompt_tuning_jax.serving.requests import (
    Classify,
    Failed,
    Finished,
    Generate,
    Overloaded,
    Ranked,
    Stopping,
    Token,
    TooLate,
)

SETTINGS = HttpSettings(max_upload=MIB, max_texts=12, timeout=20.0)


class StandIn:
    """Answers every text with `answer`, and every label with the score of its place.

    Attributes:
      pace: seconds before each token.
      room: requests that it takes before it is overloaded.
      failure: what requests fail of, if not None.
      is_held: requests wait until it is cleared.
      seen: the requests that it took.
    """

    def __init__(self, model, library, answer="the soup was good"):
        self.model, self.library, self.answer = model, library, answer
        self.limits = SimpleNamespace(
            max_input_length=16, max_tokens=32, max_labels=8, max_label_tokens=8
        )
        self.pace, self.room, self.failure = 0.0, 1000, None
        self.is_ready, self.is_stopping = True, False
        self.free, self.seen, self._waiting = threading.Event(), [], queue.Queue()
        self.prepared = []
        self.free.set()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def encode(self, text):
        ids = self.model.vocabulary.framed(self.model.vocabulary.encode(text))
        if len(ids) > self.limits.max_input_length:
            raise ValueError(f"The text has {len(ids)} tokens, at most 16 are read here.")
        return ids

    def submit(self, request):
        if self.is_stopping:
            raise Stopping("The server is stopping.")
        if self._waiting.qsize() >= self.room:
            raise Overloaded(self._waiting.qsize(), 1.5)
        if isinstance(request, Classify):
            check_distinct(request.labels, self.model.vocabulary)
        self.seen.append(request)
        self._waiting.put(request)

    def prepare(self, prompt):
        self.prepared.append(prompt)

    def statistics(self):
        return {"waiting": float(self._waiting.qsize()), "tokens": 7.0, "slots": 4.0}

    def close(self):
        self.free.set()
        for _ in self._threads:
            self._waiting.put(None)

    def _work(self):
        while (request := self._waiting.get()) is not None:
            while not self.free.wait(0.01) and not request.is_cancelled:
                if time.monotonic() > request.deadline:
                    break
            for event in self._events(request):
                if request.is_cancelled:
                    break
                request.tell(event)

    def _events(self, request):
        if time.monotonic() > request.deadline:
            yield Failed(TooLate())
        elif self.failure is not None:
            yield Failed(self.failure)
        elif isinstance(request, Generate):
            yield from self._text(request)
        else:
            copies = max(1, len(request.prompts))
            scores = -1.0 - np.arange(len(request.labels) * copies, dtype=np.float32)
            yield Ranked(ranked_answer(scores.reshape(copies, -1), request.labels))

    def _text(self, request):
        ids = self.model.vocabulary.encode(self.answer)
        most, told = request.sampling.max_tokens, request.sampling.told
        for number, token in enumerate(ids[:most]):
            time.sleep(self.pace)
            # A token in whose place there might be the first one, the end, and one that may not be.
            others = (ids[0], -7.0), (self.model.vocabulary.eos_id, -8.0), (ids[-1], -np.inf)
            yield Token(token, -0.5 * number, others[:told])
        if len(ids) >= most:
            yield Finished("length")
            return
        yield Token(self.model.vocabulary.eos_id, -0.1)
        yield Finished("stop")


@contextlib.contextmanager
def over(folder, model, ensembles=()):
    """One with the prompts of a folder, and ensembles of them: (name, members)."""
    library = PromptLibrary(folder, model, max_prompt_length=8, memory=2**20)
    for name, members in ensembles:
        library.add_ensemble(name, members)
    engine = StandIn(model, library)
    yield engine
    engine.close()


@contextlib.contextmanager
def served(engine, settings):
    """The address of a server in a thread of this process."""
    config = uvicorn.Config(make_app(engine, settings), port=0, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
