"""Judge students side by side, at any length: prompts x takes x lengths, the same noise for all, and the truth.

Each video is rolled out once, to the longest length, and judged at all of them while it is made. Writes films-*.jsonl
(one line a video, at once), report.json, report.md, plots, and strips and MP4s of the first videos. Stopped, killed, or
run by several processes under torchrun, the same command goes on; whichever process judges the last video writes the
report. Videos are made again only if what decides them has changed: weights, settings, prompts, lengths.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from sfpp_core.stability.offline.judge import Damage
from sfpp_core.tiny.family import weights_path
from sfpp_core.wan.config import WAN21

from ..config import StageConfig, as_plain, core_refusals, require
from ..data.prompt_embeds import Conditioning, ConditioningConfig
from ..engine.distributed import DistContext
from ..evaluation.figures import END_SECONDS, curve_edges, latent_frames_of
from ..evaluation.judging import Session, in_batches, judge_videos, strip_path, write_sheet
from ..evaluation.plots import plot_drift, plot_measures
from ..evaluation.report import findings, machine_of, write_json, write_markdown
from ..evaluation.results import (
    FILES,
    Results,
    VideoKey,
    VideoRecord,
    append_record,
    hash_of_text,
    identity_of,
    read_records,
)
from ..evaluation.rollouts import TEACHER, TRUTH, ArmConfig, EvalContext, SamplerConfig, check_arm, open_maker
from ..evaluation.truth import PromptMetrics, check_square
from ..models.open import fingerprint, open_autoencoder
from ..models.sampling import compile_decoder

logger = logging.getLogger(__name__)

PLOTS = {
    "stability": (("stability", "stability_end"), "Visual Stability by the offline judge"),
    "motion": (("dynamic_degree", "dynamic_degree_end"), "Dynamic degree"),
    "truth": (("luminance_error", "colour_error", "frechet_distance"), "Distance from the truth, last 5 s"),
    "prompt": (("object", "colour", "all_five"), "What the prompt asked for, last 5 s"),
}
"""Files, the measures that they show, their titles."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateStageConfig(StageConfig):
    """The evaluate stage."""

    arms: list[ArmConfig]
    """What is compared."""
    baselines: list[str]
    """Names of the arms that the others' differences are taken from."""
    conditioning: ConditioningConfig
    """The prompts: held-out ones."""
    prompts: int = 32
    """How many of them, from the first."""
    takes: int = 3
    """Videos of a prompt, each with a seed of its own."""
    lengths: list[float] = field(default_factory=lambda: [5.0, 50.0, 75.0, 100.0, 255.0, 1200.0])
    """Seconds, rising; none below 5, which is what is looked at at the end of each."""
    batch: int = 8
    """Videos made together."""
    height: int = 64
    """In pixels."""
    width: int = 64
    vae: str | None = None
    """File of the autoencoder; None for the built-in family's own."""
    reader: str | None = None
    """File of the reader, for prompts of the procedural scenes; None leaves out what takes a truth to tell."""
    unheeded: list[Damage] = field(default_factory=list)
    """Kinds of damage that Visual Stability lets pass: loops, where the truth itself is periodic."""
    truth_scenes: int = 16
    """Scenes rendered a prompt to know what its videos look like."""
    drawn: list[str] = field(default_factory=list)
    """Names of the arms that plots and sheets show; empty for all."""
    prompts_kept: int = 4
    """Prompts whose first video is kept of every arm, as MP4 and as a strip of pictures. Decides no figures, so videos
    that are judged are not made again for it; the log names those that lack their pictures."""
    teacher: SamplerConfig = field(default_factory=SamplerConfig)
    """How arms of kind teacher are sampled."""

    def __post_init__(self) -> None:
        StageConfig.__post_init__(self)
        names = [arm.name for arm in self.arms]
        require(len(set(names)) == len(names) > 0, f"arms are called {', '.join(names)}; give each a name of its own.")
        require(
            bool(self.baselines) and set(self.baselines) <= set(names),
            f"baselines are {self.baselines}; name one or more of the arms: {', '.join(names)}.",
        )
        require(
            set(self.drawn) <= set(names), f"drawn is {self.drawn}; name some of the arms: {', '.join(names)}, or none."
        )
        for name in ("prompts", "takes", "batch", "truth_scenes"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1.")
        require(self.prompts_kept >= 0, f"prompts_kept is {self.prompts_kept}; it must be 0 or more.")
        rising = all(first < second for first, second in zip(self.lengths, self.lengths[1:], strict=False))
        require(
            bool(self.lengths) and rising and self.lengths[0] >= int(END_SECONDS),
            f"lengths are {self.lengths}; they must rise, from at least {int(END_SECONDS)} seconds.",
        )
        with core_refusals():
            WAN21.latent_size(self.height, self.width)
        shortest = latent_frames_of(self.lengths[0])
        for arm in self.arms:
            require(
                arm.kind != TEACHER or shortest <= self.teacher.frames,
                f"arm {arm.name} makes clips of {self.teacher.frames} latent frames, which reach none of lengths, "
                f"{self.lengths} seconds; begin them with 5, write teacher.frames={shortest}, or leave the arm out.",
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Evaluation:
    """A run's parts."""

    config: EvaluateStageConfig
    world: DistContext
    folder: Path
    context: EvalContext
    prompt_metrics: PromptMetrics | None
    common: dict[str, Any]
    """What decides the videos and figures of all arms."""


CONFIG = EvaluateStageConfig


def run(config: EvaluateStageConfig, world: DistContext | None = None) -> bool:
    """Judge until all videos are judged or `run.max_minutes` are over; True when finished.

    world: by default the processes that this one has joined.

    Raises:
        ConfigError: prompts, weights or settings that cannot be used, or a folder with other files of these names.
    """
    started = time.monotonic()
    evaluation = _open(config, world or DistContext.current())
    expected: dict[VideoKey, str] = {}
    for arm in config.arms:
        with torch.no_grad(), config.autocast():
            expected |= _judge_arm(evaluation, arm, started)
        if _is_over(config, started):
            break
    return _finish(evaluation, expected)


def _open(config: EvaluateStageConfig, world: DistContext) -> _Evaluation:
    conditioning = Conditioning.open(config.conditioning, device=config.device)
    known = len(conditioning.prompts)
    require(config.prompts <= known, f"prompts is {config.prompts}, but conditioning has {known}; name more, or less.")
    vae = open_autoencoder(config.vae or str(weights_path("vae"))).to(config.device, config.compute_dtype)
    vae.requires_grad_(False)
    if config.run.compile:
        compile_decoder(vae)
    context = EvalContext(
        conditioning=conditioning,
        vae=vae,
        sampler=config.teacher,
        device=config.device,
        dtype=config.compute_dtype,
        seed=config.seed,
        height=config.height,
        width=config.width,
    )
    # All of them now: an arm's turn may come after hours of videos.
    for arm in config.arms:
        check_arm(arm, context, prompts=config.prompts)
    prompt_metrics = _open_prompt_metrics(config, conditioning)
    folder = Path(config.run.out)
    folder.mkdir(parents=True, exist_ok=True)
    decisive = ("seed", "height", "width", "precision", "truth_scenes", "unheeded")
    common: dict[str, Any] = {name: getattr(config, name) for name in decisive}
    common |= {"vae": fingerprint(vae), "reader": fingerprint(prompt_metrics.reader) if prompt_metrics else None}
    return _Evaluation(
        config=config, world=world, folder=folder, context=context, prompt_metrics=prompt_metrics, common=common
    )


def _open_prompt_metrics(config: EvaluateStageConfig, conditioning: Conditioning) -> PromptMetrics | None:
    if config.reader is None:
        return None
    check_square(config.height, config.width)
    return PromptMetrics(
        config.reader,
        conditioning.prompts[: config.prompts],
        seed=config.seed,
        scenes=config.truth_scenes,
        size=config.height,
        device=config.device,
    )


def _judge_arm(evaluation: _Evaluation, arm: ArmConfig, started: float) -> dict[VideoKey, str]:
    """Judge this process's videos of an arm that are not judged yet; all videos of the arm with their identities."""
    config, world = evaluation.config, evaluation.world
    maker = open_maker(arm, evaluation.context)
    lengths = [length for length in config.lengths if maker.reach is None or latent_frames_of(length) <= maker.reach]
    videos = _videos(evaluation, arm, {"maker": maker.identity, "lengths": lengths})
    known = read_records(evaluation.folder)
    mine = [key for key in list(videos)[world.rank :: world.size] if (key, videos[key]) not in known]
    session = Session(
        maker=maker,
        context=evaluation.context,
        prompt_metrics=evaluation.prompt_metrics,
        lengths=lengths,
        folder=evaluation.folder,
        prompts_kept=config.prompts_kept,
        unheeded=config.unheeded,
    )
    for batch in tqdm(in_batches(mine, config.batch), desc=arm.name, unit="batch"):
        if _is_over(config, started):
            break
        for record in judge_videos(session, {key: videos[key] for key in batch}):
            append_record(evaluation.folder, world.rank, record)
    return videos


def _videos(evaluation: _Evaluation, arm: ArmConfig, of_arm: dict[str, Any]) -> dict[VideoKey, str]:
    """The videos of an arm with their identities: all prompts once, then all of them again."""
    config, conditioning = evaluation.config, evaluation.context.conditioning
    videos = {}
    for take in range(config.takes):
        for prompt in range(config.prompts):
            text = hash_of_text(conditioning.text([prompt]))
            of_video = {"prompt": conditioning.prompts[prompt], "text": text, "take": take}
            videos[VideoKey(arm=arm.name, prompt=prompt, take=take)] = identity_of(
                evaluation.common | of_arm | of_video
            )
    return videos


def _is_over(config: EvaluateStageConfig, started: float) -> bool:
    return config.run.max_minutes is not None and time.monotonic() - started > 60 * config.run.max_minutes


def _finish(evaluation: _Evaluation, expected: dict[VideoKey, str]) -> bool:
    """Write the report if every video is judged, by whichever process; True then."""
    config, folder = evaluation.config, evaluation.folder
    known = read_records(folder)
    records = [known[video] for video in expected.items() if video in known]
    wanted = len(config.arms) * config.prompts * config.takes
    if len(records) < wanted:
        logger.info("%d of %d videos are judged; the same command goes on", len(records), wanted)
        return False
    with torch.no_grad(), config.autocast():
        _write_report(evaluation, records)
    logger.info("evaluate is finished: %d videos, report in %s", wanted, folder / "report.md")
    return True


def _write_report(evaluation: _Evaluation, records: list[VideoRecord]) -> None:
    config, folder = evaluation.config, evaluation.folder
    results = _results(config, records, [arm.name for arm in config.arms])
    found = findings(
        results, config.baselines, evaluation.prompt_metrics, results.truths[0] if results.truths else None
    )
    report = {"config": as_plain(config), "machine": machine_of(config.device), "measures": found}
    report |= {"stability_of_films": results.stability_of_videos(), "prompts": results.texts()}
    write_json(folder / "report.json", report | {"seconds_a_film": results.seconds_a_video})
    write_markdown(folder / "report.md", found, results, config.baselines, "Evaluation")
    drawn = _results(config, records, [arm.name for arm in config.arms if not config.drawn or arm.name in config.drawn])
    for name, (measures, title) in PLOTS.items():
        if any(measure in found for measure in measures):
            plot_measures(found, measures, drawn, title, folder / f"{name}.png")
    plot_drift(drawn, curve_edges(config.lengths[-1]), folder / "drift.png")
    _write_sheets(evaluation, drawn.arms)


def _write_sheets(evaluation: _Evaluation, arms: list[str]) -> None:
    """A sheet a prompt of the arms' kept videos; says of which videos nothing was kept."""
    config, folder = evaluation.config, evaluation.folder
    missing = []
    for prompt in range(min(config.prompts_kept, config.prompts)):
        strips = {arm.name: strip_path(folder, VideoKey(arm=arm.name, prompt=prompt, take=0)) for arm in config.arms}
        missing += [f"{arm} prompt {prompt}" for arm, strip in strips.items() if not strip.is_file()]
        shown = {arm: strips[arm] for arm in arms if strips[arm].is_file()}
        if shown:
            title = evaluation.context.conditioning.prompts[prompt]
            write_sheet(shown, config.lengths, title, folder / f"sheet_{prompt:03d}.png")
    if missing:
        logger.warning(
            "prompts_kept is %d, but videos judged before were not kept, so sheets lack them: %s; to have them "
            "made and kept, remove their lines (take 0) from %s and give the same command again",
            config.prompts_kept,
            ", ".join(missing),
            folder / FILES,
        )


def _results(config: EvaluateStageConfig, records: list[VideoRecord], arms: list[str]) -> Results:
    """Return what was found of some arms."""
    truths = [arm.name for arm in config.arms if arm.kind == TRUTH and arm.name in arms]
    return Results(records, arms, truths=truths, prompts=config.prompts, takes=config.takes)
