"""A real ComfyUI server in a process of its own, with this pack loaded the way ComfyUI loads it.

    with ComfyServer(ServerConfig(base_directory=folder)) as server:
        client = ComfyClient(server.url)

The base directory is private to the server: models, inputs, outputs, settings, and ``custom_nodes``, where this
repository is linked under a name that an artist could give its folder.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent

# The folder name under custom_nodes; help pages and workflow templates are served below it.
PACK_FOLDER = "self-forcing-pp"

_BASE_FOLDERS = ("custom_nodes", "input", "models", "output", "temp", "user")
_POLL_INTERVAL_S = 0.1


class ServerError(RuntimeError):
    """ComfyUI could not be started or ended early; the message carries the end of its log."""


def default_comfyui() -> Path:
    """The ComfyUI folder that scripts/setup uses: COMFYUI_DIR if set, otherwise the unpacked one."""
    return Path(os.environ.get("COMFYUI_DIR") or ROOT / ".comfyui").absolute()


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """The options that a server is started with."""

    base_directory: Path
    """Folder for everything the server reads and writes; made if missing, kept when the server stops."""

    comfyui: Path | None = None
    """ComfyUI's folder (with main.py); None takes `default_comfyui()`."""

    python: Path = Path(sys.executable)
    """Interpreter that has ComfyUI's requirements."""

    port: int | None = None
    """Port to listen on, the same after a restart; None takes a free one at each start."""

    cpu: bool = True
    """Compute on the CPU even where there is a GPU."""

    preview_method: str = "auto"
    """ComfyUI's --preview-method; "none" sends no previews over the websocket."""

    arguments: tuple[str, ...] = ()
    """Further command-line arguments for ComfyUI."""

    start_timeout_s: float = 300.0
    """How long the server may take until it answers; about 10 s is usual on two cores."""

    stop_timeout_s: float = 10.0
    """How long the server may take to stop by itself before it is killed."""

    def __post_init__(self) -> None:
        for name in ("start_timeout_s", "stop_timeout_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number of seconds above 0")


class ComfyServer:
    """Starts one ComfyUI process and stops it again; a context manager.

    Started again after `stop` or `kill`, it is a new process over the same base directory and another port, unless the
    configuration names one: what a restart of ComfyUI looks like to saved files.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.base_directory = config.base_directory.absolute()
        self.comfyui = (config.comfyui or default_comfyui()).absolute()
        self.log_path = self.base_directory / "server.log"
        self.port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the running server, without a slash at the end."""
        if self.port is None:
            raise ServerError("the server is not running; call start() first")
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The operating system's number of the running process."""
        if self._process is None:
            raise ServerError("the server is not running; call start() first")
        return self._process.pid

    @property
    def output_directory(self) -> Path:
        """The folder that the server's output nodes write to."""
        return self.base_directory / "output"

    @property
    def input_directory(self) -> Path:
        """The folder that the server's load nodes read."""
        return self.base_directory / "input"

    def models_directory(self, kind: str) -> Path:
        """The folder for models of one kind ("diffusion_models", "loras", ...), made if missing."""
        folder = self.base_directory / "models" / kind
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def start(self) -> None:
        """Start the process and wait until it answers.

        Raises:
            ServerError: it did not come up; no process is left behind.
        """
        if self._process is not None:
            raise ServerError(f"this server already runs at {self.url}")
        if not (self.comfyui / "main.py").is_file():
            raise ServerError(f"{self.comfyui} holds no ComfyUI (no main.py); run scripts/setup or set COMFYUI_DIR")
        self._lay_out_base_directory()
        port = self.config.port or free_port()
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(
                self._command(port),
                cwd=self.comfyui,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Its own process group: Ctrl-C in the terminal reaches us alone, and we stop the server in order.
                start_new_session=True,
                preexec_fn=_in_new_process(),
            )
        self.port = port
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the process if it runs, gently at first; its files stay."""
        process, self._process, self.port = self._process, None, None
        if process is None:
            return
        # ComfyUI tidies its temporary files on SIGINT and knows no other way to be asked.
        for request, timeout_s in ((signal.SIGINT, self.config.stop_timeout_s), (signal.SIGKILL, None)):
            if process.poll() is not None:
                return
            process.send_signal(request)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                logger.warning("ComfyUI did not stop within %g s of being asked; killing it", timeout_s)

    def kill(self) -> None:
        """End the process at once, as a power cut would; its files stay as they are."""
        process, self._process, self.port = self._process, None, None
        if process is not None:
            process.kill()
            process.wait()

    def is_running(self) -> bool:
        """Return whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def log_tail(self, num_lines: int = 60) -> str:
        """The last lines that the server wrote."""
        if not self.log_path.exists():
            return ""
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-num_lines:])

    def __enter__(self) -> ComfyServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _lay_out_base_directory(self) -> None:
        for name in _BASE_FOLDERS:
            (self.base_directory / name).mkdir(parents=True, exist_ok=True)
        link = self.base_directory / "custom_nodes" / PACK_FOLDER
        if not link.exists():
            link.symlink_to(ROOT, target_is_directory=True)

    def _command(self, port: int) -> list[str]:
        config = self.config
        return [
            str(config.python),
            "main.py",
            *("--listen", "127.0.0.1", "--port", str(port)),
            *("--base-directory", str(self.base_directory)),
            *("--database-url", f"sqlite:///{self.base_directory / 'user' / 'comfyui.db'}"),
            *("--preview-method", config.preview_method),
            # Nothing of a test or a demo may reach for the network.
            *("--disable-api-nodes", "--disable-auto-launch"),
            *(("--cpu",) if config.cpu else ()),
            *config.arguments,
        ]

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ, PYTHONUNBUFFERED="1", HF_HUB_OFFLINE="1")
        # An artist's ComfyUI does not have the pack on its path: an import that needs it there must fail here as well.
        environment.pop("PYTHONPATH", None)
        return environment

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.config.start_timeout_s
        while not _answers(f"{self.url}/system_stats"):
            if not self.is_running():
                raise ServerError(f"ComfyUI ended while it started. The end of {self.log_path}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServerError(
                    f"ComfyUI did not answer within {self.config.start_timeout_s:g} s. "
                    f"The end of {self.log_path}:\n{self.log_tail()}"
                )
            time.sleep(_POLL_INTERVAL_S)


def free_port() -> int:
    """A port on the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _in_new_process() -> Callable[[], None] | None:
    """Return a hook for the new process: SIGINT stops it, and on Linux it ends when this process dies, however it dies.

    A shell starts its background jobs with SIGINT ignored, and so would they their own: a server that was started from
    one could then not be asked to stop.
    """
    if os.name != "posix":
        return None
    # Looked up before the fork: the hook itself may do next to nothing.
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    pr_set_pdeathsig = 1  # <linux/prctl.h>
    parent = os.getpid()

    def in_new_process() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if prctl is None:
            return
        prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it could be watched
            os._exit(1)

    return in_new_process
