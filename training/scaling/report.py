"""The tables of `python -m training.scaling`. Every figure in them is computed: counted, or over an assumed speed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .config import ScalingConfig
from .costs import PassCosts
from .counting import Cost
from .memory import Memory, cache_bytes, chunk_graph_bytes, memory, window_graph_bytes
from .published import implied_speeds
from .tables import decimal, gigabytes, table
from .traffic import received_bytes
from .work import Part, Work, methods, work

SECONDS_A_DAY = 86_400
WINDOWS = {True: "fresh", False: "shared"}


def report(config: ScalingConfig, costs: PassCosts, *, checkpointing: bool) -> str:
    """All tables, each under its heading."""
    sections = {
        "Networks": _networks(config, costs),
        "Passes of one video": _passes(config, costs),
        "The student's gradient: memory by design": _designs(config, costs),
        "One step of one video, PFLOP": _step(config, costs, checkpointing),
        "Memory of one GPU, GB": _memory(config, costs, checkpointing),
        "Traffic and time of a step": _time(config, costs, checkpointing),
        "Assumed speeds beside published runs": implied_speeds(config, costs),
    }
    return "\n".join(f"## {name}\n\n{body}" for name, body in sections.items())


def _networks(config: ScalingConfig, costs: PassCosts) -> str:
    networks = {"student, critic": costs.student, **costs.teachers}
    rows = [
        [name, f"{sizes.all:,}", f"{sizes.block:,}", gigabytes(4 * sizes.all), gigabytes(2 * sizes.all)]
        for name, sizes in networks.items()
    ]
    rows.append(
        ["autoencoder", f"{costs.vae_parameters:,}", "", gigabytes(4 * costs.vae_parameters), ""],
    )
    cache = config.rollout.window
    rows.append([f"cache of {cache} latent frames", "", "", "", gigabytes(cache_bytes(config, cache))])
    return table(["", "parameters", "of a block", "GB in float32", "GB in bfloat16"], rows)


def _passes(config: ScalingConfig, costs: PassCosts) -> str:
    chunk, frames, past = costs.chunk, config.window.frames, costs.chunk.most_past
    rows = [(f"teacher, {frames} frames, {name}", cost) for name, cost in costs.teacher.items()]
    rows += [(f"critic, {frames} frames", costs.critic), *_trained(f"critic, {frames} frames", costs.critic_training)]
    rows += _trained(f"causal_init, {frames} frames", costs.causal_init)
    rows += [("chunk, no past", chunk.alone), (f"chunk, {past} frames of past", chunk.full)]
    full = {key: cost.full for key, cost in costs.chunk_training.items()}
    rows += _trained(f"chunk, {past} frames of past", full)
    rows += [("text, keys and values", costs.text)]
    rows += [(f"first frames anew, {warmup} of warm-up", cost) for warmup, cost in costs.first_frames.items()]
    cells = [[name, decimal(c.flops / 1e12), gigabytes(c.kept_bytes), gigabytes(c.peak_bytes)] for name, c in rows]
    return table(["pass", "TFLOP", "GB kept for backward", "GB at its peak"], cells)


def _trained(name: str, costs: dict[bool, Cost]) -> list[tuple[str, Cost]]:
    return [
        (f"{name}, forward and backward", costs[False]),
        (f"{name}, the same with checkpointing", costs[True]),
    ]


def _designs(config: ScalingConfig, costs: PassCosts) -> str:
    designs = {"whole window's graph at once": window_graph_bytes, "one chunk's graph at a time": chunk_graph_bytes}
    rows = [
        [name, *(gigabytes(design(config, costs, checkpointing=kind)) for kind in (False, True))]
        for name, design in designs.items()
    ]
    return table(["GB, cache included", "without checkpointing", "with checkpointing"], rows)


def _step(config: ScalingConfig, costs: PassCosts, checkpointing: bool) -> str:
    calls = methods(config)
    first_teacher = next(iter(config.teachers))
    works = [
        work(config, costs, one, teacher=first_teacher, fresh=True, checkpointing=checkpointing)
        for one in calls.values()
    ]
    rows = [
        ["calls of the student in a rollout", *(decimal(one.rolled.total()) for one in calls.values())],
        *_generator_rows(config, costs, works),
        ["one update of the critic, shared window", *(_peta(each.critic[-1:]) for each in works)],
        ["one update of the critic, fresh window", *(_peta(each.critic) for each in works)],
    ]
    for teacher in config.teachers:
        for fresh in (False, True):
            steps = [
                work(config, costs, one, teacher=teacher, fresh=fresh, checkpointing=checkpointing)
                for one in calls.values()
            ]
            name = f"step of 1 + {config.critic_updates} updates, {WINDOWS[fresh]}, {teacher}"
            rows.append([name, *(decimal((each.transformer_flops + each.vae_flops) / 1e15) for each in steps)])
    return table(["", *calls], rows)


def _generator_rows(config: ScalingConfig, costs: PassCosts, works: Sequence[Work]) -> Iterator[list[str]]:
    """The parts of the student's update, one teacher after the other."""
    for parts in zip(*(each.generator for each in works), strict=True):
        if parts[0].network is None or not parts[0].name.startswith("teacher"):
            yield [parts[0].name, *(_peta([part]) for part in parts)]
            continue
        for name, cost in costs.teacher.items():
            yield [f"{parts[0].name}, {name}", *(decimal(part.passes * cost.flops / 1e15) for part in parts)]


def _peta(parts: Sequence[Part]) -> str:
    return decimal(sum(part.flops for part in parts) / 1e15)


def _memory(config: ScalingConfig, costs: PassCosts, checkpointing: bool) -> str:
    columns = {
        f"{gpus} GPU{'s' if gpus > 1 else ''}, {teacher}": memory(
            config, costs, gpus=gpus, teacher=teacher, checkpointing=checkpointing
        )
        for teacher in config.teachers
        for gpus in config.gpus
    }
    amounts: Sequence[Memory] = list(columns.values())
    rows = [[name, *(gigabytes(each.stays[name]) for each in amounts)] for name in amounts[0].stays]
    rows += [[f"phase: {name}", *(gigabytes(each.phases[name]) for each in amounts)] for name in amounts[0].phases]
    rows.append(["what stays + the largest phase", *(gigabytes(each.peak) for each in amounts)])
    rows.append(["CPU memory for caches of videos", *(gigabytes(each.host) for each in amounts)])
    rows.append(["CPU memory at the start", *(gigabytes(each.opening) for each in amounts)])
    return table(["", *columns], rows)


def _time(config: ScalingConfig, costs: PassCosts, checkpointing: bool) -> str:
    rows = []
    for name, calls in methods(config).items():
        for fresh in (False, True):
            steps = [
                work(config, costs, calls, teacher=teacher, fresh=fresh, checkpointing=checkpointing)
                for teacher in config.teachers
            ]
            rows += [[f"{name}, {WINDOWS[fresh]}", *_times(config, steps, gpus)] for gpus in config.gpus]
    header = [
        "method, critic's windows",
        "GPUs",
        "films",
        "TB, every pass gathers",
        "TB, rollouts kept",
        "s, rollouts kept",
    ]
    header += [f"s computing, {teacher}" for teacher in config.teachers]
    header += [f"GPU-days a 1000 steps, {teacher}" for teacher in config.teachers]
    return table(header, rows)


def _times(config: ScalingConfig, steps: Sequence[Work], gpus: int) -> list[str]:
    """Cells of one row; traffic is that with the last teacher."""
    videos = config.samples_per_gpu(gpus)
    received = [videos * received_bytes(steps[-1], gpus=gpus, keep_gathered=kept) for kept in (False, True)]
    computing = [videos * compute_seconds(config, step) for step in steps]
    return [
        str(gpus),
        str(videos * gpus),
        *(decimal(amount / 1e12) for amount in received),
        decimal(received[1] / (config.machine.receive_gbs(gpus) * 1e9)),
        *map(decimal, computing),
        *(decimal(seconds * 1000 * gpus / SECONDS_A_DAY) for seconds in computing),
    ]


def compute_seconds(config: ScalingConfig, step: Work) -> float:
    """Of one video on one GPU, at the assumed speeds."""
    machine = config.machine
    return step.transformer_flops / (machine.transformer_tflops * 1e12) + step.vae_flops / (machine.vae_tflops * 1e12)
