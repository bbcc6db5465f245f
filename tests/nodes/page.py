"""ComfyUI's own page in a real browser, as an artist uses it: open a template, set widgets, press Run, watch.

Playwright drives the Chromium that the machine has. The JavaScript here asks the page, or does what a hand on
the canvas would: nodes are painted, not elements that could be clicked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import ConsoleMessage, Locator, Page, sync_playwright

from tools.browser import find_browser
from tools.comfy_server import PACK_FOLDER

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SIZE = {"width": 1900, "height": 1000}
PATIENCE_MS = 120_000
SETTLED_MS = 1500
"""After a run, until the page has shown and wiped what it shows and wipes then."""

COMFYUIS_OWN = re.compile(
    r"/user\.css|/favicon\.ico|/api/userdata|api\.comfy\.org|Failed to load resource: net::ERR_"
    r"|onChange \(.*/assets/index|huggingface\.co|graph accessed before initialization"
    r"|/api/jobs\?|JobsApiError|/templates/index|Error loading core workflow templates"
)
"""What the page complains of by itself: files that a new user does not have, addresses outside this machine, and what
ComfyUI 0.3.75 does not tell to a page that is newer than it is."""

# Newer pages complain if somebody asks for the graph before it is there; older ones do not tell.
READY = "!!(window.app && app.extensionManager && (app.isGraphReady ?? app.graph))"

OPENED = """name => {
    const workflow = app.extensionManager.workflow.activeWorkflow;
    return workflow && workflow.filename === name && app.graph._nodes.length > 0;
}"""

FIT = "() => app.extensionManager.command.execute('Comfy.Canvas.FitView')"

RECORD_ANEW = "() => { window.seen = {texts: [], previews: [], progress: [], ended: null}; }"

RECORD = """() => {
    const on = (name, action) => app.api.addEventListener(name, event => action(event.detail));
    on('progress_text', ({nodeId, text}) => seen.texts.push([String(nodeId), text]));
    on('progress_state', ({nodes}) => {
        for (const node of Object.values(nodes))
            if (node.state === 'running') seen.progress.push([String(node.node_id), node.value, node.max]);
    });
    on('b_preview_with_metadata', async ({blob, nodeId}) => {
        const {width, height} = await createImageBitmap(blob);
        seen.previews.push([String(nodeId), width, height]);
    });
    for (const name of ['execution_success', 'execution_error', 'execution_interrupted'])
        on(name, detail => { seen.ended = [name, detail.exception_message ?? '']; });
}"""

SET_WIDGET = """([nodeId, name, value]) => {
    const node = app.graph.getNodeById(nodeId);
    const widget = node.widgets.find(widget => widget.name === name);
    widget.value = value;
    widget.callback?.(value, app.canvas, node);
}"""

INTERRUPT = "() => app.api.interrupt()"

WIDGET_VALUES = """() => Object.fromEntries(
    app.graph.serialize().nodes.filter(node => node.widgets_values?.length).map(node => [node.id, node.widgets_values])
)"""

LABELS = "nodeId => app.graph.getNodeById(nodeId).widgets.map(widget => widget.label ?? widget.name)"

LAYOUT = """() => ({
    nodes: app.graph._nodes.map(node => ({
        id: node.id, type: node.type, title: node.getTitle(), box: [...node.pos, ...node.size].map(Number),
    })),
    groups: app.graph._groups.map(group => ({title: group.title, box: [...group.pos, ...group.size].map(Number)})),
})"""

READ_NOTE = """([x, y]) => {
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset[0] = 100 - x;
    app.canvas.ds.offset[1] = 200 - y;
    app.canvas.setDirty(true, true);
}"""

NOTE_OVERFLOW = """() => [...document.querySelectorAll('.comfy-markdown .tiptap')]
    .filter(note => note.clientHeight > 0).map(note => note.scrollHeight - note.clientHeight)"""

SELECT_NEW = """type => {
    app.graph.clear();
    const node = LiteGraph.createNode(type);
    node.pos = [900, 300];  // clear of the panel at the left that shows the help
    app.graph.add(node);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset[0] = app.canvas.ds.offset[1] = 100;
    app.canvas.selectNode(node);
    app.canvas.setDirty(true, true);
}"""

PLAY = """async video => {
    video.muted = true;
    await video.play();
    const end = performance.now() + 20000;
    while (video.currentTime < 0.3 && !video.ended && performance.now() < end)
        await new Promise(resolve => setTimeout(resolve, 50));
    return {
        width: video.videoWidth, height: video.videoHeight, duration: video.duration,
        time: video.currentTime, error: video.error && video.error.message,
    };
}"""


class ComfyPage:
    """The page in a browser, and everything that it complained of."""

    def __init__(self, page: Page, url: str, screenshots: Path) -> None:
        self.page = page
        self.errors: list[str] = []
        self._url = url
        self._screenshots = screenshots
        page.set_default_timeout(PATIENCE_MS)
        # The page would restore what was open before; every test begins with what it asks for.
        page.add_init_script("localStorage.clear(); sessionStorage.clear()")
        page.on("console", self._complained)
        page.on("pageerror", lambda error: self._note(f"{error}\n{error.stack}"))

    def open_workflow(self, path: Path) -> None:
        """Open a workflow of the pack by the template browser's address; the whole graph is in view then.

        The page takes no address with a dot in the name; such a file is dropped on it.
        """
        if "." in path.stem:
            self.open_empty()
            self.drop(path)
        else:
            self._load(f"/?template={path.stem}&source={PACK_FOLDER}")
            self._wait_until(OPENED, path.stem)
        self.fit()

    def open_empty(self) -> None:
        self._load("/")

    def _load(self, address: str) -> None:
        self.page.goto(self._url + address, wait_until="domcontentloaded")
        self._wait_until(READY)
        self.page.evaluate(RECORD_ANEW)
        self.page.evaluate(RECORD)

    def drop(self, path: Path) -> None:
        """Open a file as when it is dropped on the page."""
        self.page.evaluate(
            "async ([text, name]) => app.handleFile(new File([text], name, {type: 'application/json'}))",
            [path.read_text(encoding="utf-8"), path.name],
        )

    def fit(self) -> None:
        self.page.evaluate(FIT)
        self.page.wait_for_timeout(500)

    def set_widget(self, node_id: int, name: str, value: Any) -> None:
        self.page.evaluate(SET_WIDGET, [node_id, name, value])

    def as_api(self) -> dict[str, Any]:
        """What the page would queue."""
        output = self.page.evaluate("async () => (await app.graphToPrompt()).output")
        return {node_id: {key: node[key] for key in ("class_type", "inputs")} for node_id, node in output.items()}

    def run(self) -> dict[str, Any]:
        """Press Run and wait for the end; what the page was told meanwhile."""
        self.queue()
        return self.end()

    def queue(self) -> None:
        """Press Run."""
        self.page.evaluate(RECORD_ANEW)
        self.page.get_by_test_id("queue-button").click()

    def end(self) -> dict[str, Any]:
        """Wait for the end of the run; what the page was told meanwhile."""
        self._wait_until("() => window.seen.ended !== null")
        self.page.wait_for_timeout(SETTLED_MS)
        return self.page.evaluate("() => window.seen")

    def interrupt_at(self, text: str) -> dict[str, Any]:
        """Wait until a node says so, stop the run, and wait for its end; what the page was told meanwhile."""
        self._wait_until("text => window.seen.texts.some(([node, said]) => said.includes(text))", text)
        self.page.evaluate(INTERRUPT)
        return self.end()

    def widget_values(self) -> dict[str, list[Any]]:
        """What the page would save of each node's widgets, by position."""
        return self.page.evaluate(WIDGET_VALUES)

    def videos(self, count: int) -> list[Locator]:
        """The videos on the page, once there are so many. Raises TimeoutError if there are not."""
        videos = self.page.locator("video")
        videos.nth(count - 1).wait_for(state="attached")
        return videos.all()

    def play(self, video: Locator) -> dict[str, Any]:
        """Play a video for a moment; its size, position and error."""
        return video.evaluate(PLAY)

    def layout(self) -> dict[str, Any]:
        """Nodes and groups with their boxes [x, y, width, height]."""
        return self.page.evaluate(LAYOUT)

    def version(self) -> str:
        """Of the page, as it says itself."""
        return self.page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__")

    def labels_of(self, node_id: int) -> list[str]:
        """What the page calls the widgets of a node."""
        return self.page.evaluate(LABELS, node_id)

    def note_overflow(self) -> list[int]:
        """Pixels of each note's text that its node does not show. Leaves the note in view."""
        (note,) = (node for node in self.layout()["nodes"] if node["type"] == "MarkdownNote")
        self.page.evaluate(READ_NOTE, note["box"][:2])
        self.page.locator(".comfy-markdown .tiptap:visible").first.wait_for()
        return self.page.evaluate(NOTE_OVERFLOW)

    def times_shown(self, text: str) -> int:
        """At how many places a text, or one that it is a part of, can be seen on the page."""
        return sum(found.is_visible() for found in self.page.get_by_text(text).all())

    def help_of(self, node_type: str, title: str) -> str:
        """The help page of a node, as the button above a selected node opens it."""
        self.page.evaluate(SELECT_NEW, node_type)
        heading = self.page.get_by_role("heading", level=1, name=title, exact=True)
        button = self.page.get_by_test_id("info-button")
        # Where help is open already, newer pages show that of what is selected, and have no button for it.
        heading.or_(button).first.wait_for()
        self.page.wait_for_timeout(500)
        if not heading.is_visible():
            button.click()
        heading.wait_for()
        return heading.locator("xpath=..").inner_text()

    def warnings(self) -> list[str]:
        """Dialogs and messages that are open."""
        found = self.page.locator(".p-dialog, .p-toast-message, [data-testid=error-overlay]")
        return [text.strip() for text in found.all_inner_texts()]

    def screenshot(self, name: str) -> None:
        self._screenshots.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self._screenshots / f"{name}.png")

    def _wait_until(self, condition: str, argument: Any = None) -> None:
        # By the clock: a page without a screen paints when it likes, and Playwright would ask at every frame.
        self.page.wait_for_function(condition, arg=argument, polling=100)

    def _complained(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._note(f"{message.text} ({message.location.get('url', '')})")

    def _note(self, complaint: str) -> None:
        if not COMFYUIS_OWN.search(complaint):
            self.errors.append(complaint)


@contextmanager
def browsing(url: str, profile: Path, screenshots: Path) -> Iterator[ComfyPage]:
    """A browser with a profile of its own and one page for a server. Raises NoBrowserError if there is no browser."""
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=find_browser(), headless=True, args=list(FLAGS), viewport=SIZE
        )
        try:
            yield ComfyPage(context.pages[0], url, screenshots)
        finally:
            context.close()
