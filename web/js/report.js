// Shows what the run of a node left behind (see nodes/comfy/report.py) under the node, until the node works again.
//
// The page itself shows ui texts of its own preview nodes only, and wipes progress texts when a run ends.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const OURS = "SFPP";
const NAME = "sfpp_report";
const PROGRESS_TEXT = "$$node-text-preview"; // the page's own widget, which older pages keep after the run
const LINE = 16;
const PADDING = 6;
const MARGIN = 10; // the page's, around an element in a node
const FONT = "12px Arial, sans-serif";
const MOST_LINES = 8; // of more, the rest can be scrolled to

const ruler = document.createElement("canvas").getContext("2d");

/** Lines that a text takes at a width in pixels. A word may not fit into the line that it is measured for. */
function linesOf(text, width) {
    ruler.font = FONT;
    let lines = 0;
    for (const paragraph of text.split("\n")) {
        let used = 0;
        lines += 1;
        for (const part of paragraph.match(/\s*\S+|\s+$/g) ?? []) {
            const length = ruler.measureText(part).width;
            if (used && used + length > width) {
                lines += 1;
                used = 0;
            }
            used += length;
            while (used > width) {
                lines += 1;
                used -= width;
            }
        }
    }
    return lines;
}

/** Height of a node's report in its width, margins included. */
function heightOf(node, text) {
    const width = node.size[0] - 2 * (MARGIN + PADDING) - 2;
    return Math.min(linesOf(text, width), MOST_LINES) * LINE + 2 * (MARGIN + PADDING);
}

function remove(node, name) {
    const widget = node.widgets?.find((candidate) => candidate.name === name);
    if (widget) node.removeWidget(widget);
}

function show(node, text) {
    remove(node, NAME);
    remove(node, PROGRESS_TEXT);
    const element = document.createElement("div");
    element.className = "sfpp-report";
    element.textContent = text;
    element.title = text;
    Object.assign(element.style, {
        boxSizing: "border-box",
        padding: `${PADDING}px`,
        font: FONT,
        lineHeight: `${LINE}px`,
        minHeight: `${heightOf(node, text) - 2 * MARGIN}px`,
        overflow: "auto",
        whiteSpace: "pre-wrap",
        overflowWrap: "anywhere",
        userSelect: "text",
        color: "var(--input-text)",
        background: "var(--comfy-input-bg)",
        borderRadius: "4px",
    });
    // Workflows store widget values by position, and the server knows no such input: it is in neither.
    const widget = node.addDOMWidget(NAME, NAME, element, {
        serialize: false,
        hideOnZoom: false, // as the page's own texts
        getValue: () => text,
        setValue: () => {},
        getMinHeight: () => heightOf(node, text),
        getMaxHeight: () => heightOf(node, text),
        margin: MARGIN,
    });
    widget.serialize = false;
    const [width, height] = node.computeSize();
    node.setSize([Math.max(width, node.size[0]), Math.max(height, node.size[1])]);
    app.canvas?.setDirty(true, true);
}

/** Show what a node's ui output says; leave what is shown if it says nothing. */
function showOutput(node, output) {
    const text = (output?.said ?? output?.text)?.join("\n");
    if (text) show(node, text);
}

/** The node that the page or the server calls so: "5", "3:5" in node 3's subgraph, or "<its uuid>:5". */
function nodeOf(id) {
    const [first, ...rest] = String(id).split(":");
    const root = app.rootGraph ?? app.graph;
    let node;
    let graph = root.subgraphs?.get(first) ?? root;
    for (const part of graph === root ? [first, ...rest] : rest) {
        node = graph?.getNodeById(/^-?\d+$/.test(part) ? Number(part) : part);
        graph = node?.subgraph;
    }
    return node;
}

const isOurs = (node) => Boolean(node?.comfyClass?.startsWith(OURS));

app.registerExtension({
    name: "SelfForcingPP.Report",
    setup() {
        api.addEventListener("executing", ({ detail }) => {
            const node = detail == null ? null : nodeOf(detail);
            if (isOurs(node)) remove(node, NAME);
        });
    },
    beforeRegisterNodeDef(nodeType, nodeData) {
        if (!nodeData.name.startsWith(OURS)) return;
        const { onExecuted } = nodeType.prototype;
        nodeType.prototype.onExecuted = function (output) {
            onExecuted?.apply(this, arguments);
            showOutput(this, output);
        };
    },
    // A workflow that is opened from the history, or by its tab again, comes with the outputs of its last run.
    onNodeOutputsUpdated(outputs) {
        for (const [id, output] of Object.entries(outputs)) {
            const node = nodeOf(id);
            if (isOurs(node)) showOutput(node, output);
        }
    },
});
