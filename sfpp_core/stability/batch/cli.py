"""The command line of Visual Stability: `python -m sfpp_core.stability`.

Results are printed in fixed columns, with the names, which may be long, at the end of the line.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
from collections.abc import Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path

from ...files import replacing
from ..judges.registry import JUDGES, make_judge
from ..ledger import LedgerError, RatingLedger
from ..score import MAX_RATING, SEGMENT_SECONDS, JudgeError, clock
from .compare import CONFIDENCE, Comparison, compare
from .inputs import find_videos, listed_prompts, mirrored, names_in, sidecar_prompt
from .rate import log_to_stderr, rate_videos
from .results import ResultFile, VideoResult

logger = logging.getLogger(__name__)


def result_table(results: Sequence[VideoResult]) -> str:
    """A line a video: its score (0 to 100), its worst segment's rating (0 to 5) and time; then the mean score."""
    lines = [f"{'score':>6} {'worst':>6}  {'from':>7} {'to':>7}  video"]
    scores = []
    for result in results:
        if result.stability is None:
            lines.append(f"{'failed':>6} {'':6}  {'':7} {'':7}  {result.question.path}")
            continue
        worst = min(result.stability.segments, key=lambda segment: segment.rating)
        scores.append(result.stability.score)
        lines.append(
            f"{scores[-1]:6.1f} {worst.rating:4.1f}/{MAX_RATING}  {clock(worst.start):>7} {clock(worst.end):>7}  "
            f"{result.question.path}"
        )
    if len(scores) > 1:
        lines.append(f"{sum(scores) / len(scores):6.1f}  mean of {len(scores)} videos")
    return "\n".join(lines) + "\n"


def comparison_table(comparison: Comparison) -> str:
    """A line a pair with both scores and their difference; then what follows from all of them."""
    lines = [f"{'A':>6} {'B':>6} {'B - A':>7}  name"]
    lines += [f"{pair.a:6.1f} {pair.b:6.1f} {pair.difference:+7.1f}  {pair.name}" for pair in comparison.pairs]
    interval = comparison.interval
    span = f"{interval[0]:+.2f} to {interval[1]:+.2f}" if interval else "unknown from one pair"
    lines.append(f"mean difference B - A: {comparison.mean:+.2f}, {CONFIDENCE:.0%} interval {span}")
    lines.append(f"win rate of B: {comparison.win_rate:.1%} (ties count half), n = {len(comparison.pairs)}")
    return "\n".join(lines) + "\n"


FINE, SOME_FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
EPILOG = """exit status: 0 all videos are rated, 1 some could not be, 2 the command cannot be carried out, 130 stopped
by Ctrl-C. Run the same command again to go on: what was rated is not rated, nor paid for, again."""

# A worker takes some 400 MB before it opens a video.
MAX_DEFAULT_JOBS = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Rate, print a table, and return the exit status. Mistakes end in a sentence, not a traceback."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if bool(options.videos) == bool(options.compare):
        parser.error("give videos or folders, or --compare A B with two folders.")
    if options.compare_json and not options.compare:
        parser.error("--compare-json needs --compare A B.")
    log_to_stderr()
    # Names of files may hold what a terminal cannot show.
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _compare(options) if options.compare else _score(options)
    except KeyboardInterrupt:
        logger.error("stopped; what was rated until now is kept")
        return INTERRUPTED
    except (OSError, ValueError, JudgeError, LedgerError) as error:
        logger.error("%s", error)
        return USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sfpp_core.stability", description=__doc__, epilog=EPILOG)
    parser.add_argument("videos", nargs="*", type=Path, metavar="VIDEO_OR_FOLDER")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="two folders; pairs equal names")
    parser.add_argument("--compare-json", type=Path, metavar="FILE", help="write the comparison there")
    parser.add_argument("--judge", choices=JUDGES, default="offline", help="default: %(default)s, which costs nothing")
    parser.add_argument("--model", metavar="NAME", help="of a remote judge; default: the judge's own choice")
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", metavar="TEXT", help="the one all videos were made from")
    prompt.add_argument("--prompts", type=Path, metavar="FILE", help="CSV or JSONL with `path` and `prompt`; default: "
                        "the .txt file beside each video, if there is one")  # fmt: skip
    span = parser.add_mutually_exclusive_group()
    span.add_argument("--segment", type=_seconds, default=SEGMENT_SECONDS, metavar="SECONDS", dest="segment_seconds",
                      help="length of what is rated at a time; default: %(default)g")  # fmt: skip
    span.add_argument("--whole", action="store_const", const=None, dest="segment_seconds", help="one rating a video")
    parser.add_argument("--jsonl", type=Path, metavar="FILE", help="append results there, and skip what it holds")
    parser.add_argument("--ledger", type=Path, metavar="FILE", help="where every single rating is kept; default for "
                        f"remote judges: {_default_ledger()}")  # fmt: skip
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw the report of each video there")
    parser.add_argument("--jobs", type=_count, default=_default_jobs(), metavar="N", help="default here: %(default)s")
    return parser


def _score(options: argparse.Namespace) -> int:
    results = _rate(options, find_videos(options.videos))
    sys.stdout.write(result_table(list(results.values())))
    return FINE if all(result.stability for result in results.values()) else SOME_FAILED


def _compare(options: argparse.Namespace) -> int:
    a, b = (names_in(folder) for folder in options.compare)
    paired = sorted(a.keys() & b.keys())
    for folder, names in zip(options.compare, (a, b), strict=True):
        for name in sorted(names.keys() - set(paired)):
            logger.warning("%s is only in %s and counts for nothing", name, folder)
    if not paired:
        raise ValueError(f"{options.compare[0]} and {options.compare[1]} have no video of the same name.")
    results = _rate(options, [names[name] for name in paired for names in (a, b)])
    scores = {video: result.stability.score for video, result in results.items() if result.stability}
    try:
        comparison = compare(*({name: scores.get(video) for name, video in names.items()} for names in (a, b)))
    except ValueError as error:
        logger.error("%s", error)
        return SOME_FAILED
    sys.stdout.write(comparison_table(comparison))
    if options.compare_json:
        with replacing(options.compare_json) as temporary:
            temporary.write_text(f"{comparison.to_json()}\n", encoding="utf-8")
    return SOME_FAILED if comparison.failed else FINE


def _rate(options: argparse.Namespace, videos: Sequence[Path]) -> dict[Path, VideoResult]:
    """The result of each video, in their order."""
    finished: dict[str, VideoResult] = {}
    with ResultFile(options.jsonl) if options.jsonl else nullcontext() as file:
        results = rate_videos(
            _prompts(options, videos),
            partial(make_judge, options.judge, options.model),
            segment_seconds=options.segment_seconds,
            num_processes=options.jobs,
            ledger=_ledger(options),
            results=file,
            plots=mirrored(videos, options.plot, ".png") if options.plot else None,
        )
        # Closed at once, so that no worker lives on after an interrupt.
        with closing(results):
            for result in results:
                finished[result.question.path] = result
                outcome = f"{result.stability.score:.1f}" if result.stability else f"failed: {result.error}"
                logger.info("%d of %d  %s  %s", len(finished), len(videos), result.question.path, outcome)
    return {video: finished[str(video)] for video in videos}


def _prompts(options: argparse.Namespace, videos: Sequence[Path]) -> dict[Path, str]:
    if options.prompts:
        return listed_prompts(options.prompts, videos)
    if options.prompt is not None:
        return dict.fromkeys(videos, options.prompt)
    return {video: sidecar_prompt(video) for video in videos}


def _ledger(options: argparse.Namespace) -> RatingLedger | None:
    """None for judges that cost nothing: what they say of a video is in the results, and is soon found out again."""
    if options.ledger:
        return RatingLedger(options.ledger)
    if not JUDGES[options.judge].remote:
        return None
    path = _default_ledger()
    path.parent.mkdir(parents=True, exist_ok=True)
    return RatingLedger(path)


def _default_ledger() -> Path:
    if os.name == "nt":
        data = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "self-forcing-pp" / "ratings.sqlite3"


def _default_jobs() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_DEFAULT_JOBS)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not (seconds > 0 and math.isfinite(seconds)):
        raise argparse.ArgumentTypeError(f"{text} is no length; give seconds above 0, e.g. {SEGMENT_SECONDS:g}.")
    return seconds


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is too few; give 1 or more.")
    return count
