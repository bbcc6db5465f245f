"""What the run of a node leaves behind: its results and warnings, which stay under the node when the run is over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from server import PromptServer

from .progress import say

Ui = dict[str, tuple[str, ...]]


class Report:
    """The sentences of one run of a node, in their order, each once.

    They are said while the node works, too; but that is progress text, which newer pages wipe when a run ends.
    """

    def __init__(self) -> None:
        self._sentences: dict[str, None] = {}

    def add(self, sentence: str) -> None:
        """Keep a sentence, and say it at once if it is new."""
        if sentence not in self._sentences:
            self._sentences[sentence] = None
            say(sentence)

    def add_all(self, sentences: Iterable[str]) -> None:
        """Add several."""
        for sentence in sentences:
            self.add(sentence)

    def ui(self, key: str = "text") -> Ui:
        """The sentences, one a line, as a part of a node's ui output.

        ComfyUI adds up the outputs of a node that is called for each value of a list, by the keys of the first: so the
        key is there also where there is nothing to say. key: under which the page and other clients find them; "said"
        where "text" is something else already.
        """
        return {key: ("\n".join(self._sentences),) if self._sentences else ()}

    @contextmanager
    def shown_on_failure(self) -> Iterator[None]:
        """Have the page show what was said so far if the block ends in an error or an interrupt.

        Then the node has no ui output, and this is the message that it would have been sent with.
        """
        try:
            yield
        except BaseException:
            if self._sentences:
                _send(self.ui())
            raise


def _send(output: Ui) -> None:
    """Tell the page that queued the run what the node at work leaves behind."""
    context = get_executing_context()
    server = getattr(PromptServer, "instance", None)
    if context is None or server is None or server.client_id is None:
        return
    message = {
        "node": context.node_id,
        "display_node": get_progress_state().dynprompt.get_display_node_id(context.node_id),
        "output": output,
        "prompt_id": context.prompt_id,
    }
    server.send_sync("executed", message, server.client_id)
