"""What starts a causal student off: each objective against its formula, and the stage from end to end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.kv_cache import RollingKVCache
from sfpp_core.tiny.family import load_student, weights_path
from sfpp_core.wan.config import WanConfig
from sfpp_core.wan.transformer import WanTransformer
from tests.helpers.smoke_family import FULL_PRECISION
from training.__main__ import main
from training.causal_init.consistency import ConsistencyConfig, ConsistencyObjective
from training.causal_init.data import CausalPass, Objective
from training.causal_init.flow import FlowConfig, FlowObjective, draw_steps, spread_evenly
from training.causal_init.ode import OdeConfig, OdeObjective
from training.config import ConfigError, load_config
from training.data.clips import clip_shard, clip_shards
from training.data.trajectories import OdeTrajectories, trajectory_shard, trajectory_shards
from training.engine.distributed import DistContext, recompute_blocks
from training.engine.micro_batches import micro_batches
from training.engine.seeding import normal
from training.engine.supervised import Supervised
from training.models.sampling import student_grid, student_sigmas
from training.stages import causal_init

CONFIGS = Path(__file__).parents[3] / "training" / "configs"
SMALL = WanConfig(dim=48, ffn_dim=64, num_heads=2, num_layers=2, text_dim=20, freq_dim=32)
ROLLOUT = RolloutConfig(chunk=2, window=4, steps=(1000.0, 500.0), first_chunk_steps=(1000.0, 750.0, 250.0))
FRAMES, HEIGHT, WIDTH = 6, 4, 4
PROMPTS = ["one", "two", "three"]
SEED, BATCH = 5, 4


def small_network(seed: int) -> WanTransformer:
    """A network whose every weight matters."""
    torch.manual_seed(seed)
    network = WanTransformer(SMALL)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network


class WordTexts:
    """An embedding a word, drawn from its letters."""

    def text_of(self, prompts: Sequence[str]) -> Tensor:
        draws = [torch.Generator().manual_seed(sum(prompt.encode())) for prompt in prompts]
        return torch.stack([torch.randn(5, SMALL.text_dim, generator=draw) for draw in draws])

    def negative(self, batch: int) -> Tensor:
        return self.text_of(["never"]).expand(batch, -1, -1)


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory: pytest.TempPathFactory) -> OdeTrajectories:
    """Three made-up trajectories in two shards."""
    folder = tmp_path_factory.mktemp("trajectories")
    sigmas = [*student_sigmas(ROLLOUT), 0.0]
    header = {"sigmas": sigmas, "teacher": "made up", "usual_guidance": 1.0, "seed": 0}
    torch.manual_seed(1)
    states = torch.randn(3, len(sigmas), 16, FRAMES, HEIGHT, WIDTH)
    shards = trajectory_shards(folder)
    shards.write(0, trajectory_shard(states[:2], PROMPTS[:2], header), total=2)
    shards.write(1, trajectory_shard(states[2:], PROMPTS[2:], header), total=2)
    return OdeTrajectories(str(folder))


def causal_pass() -> CausalPass:
    return CausalPass(ROLLOUT, frames=FRAMES)


class Average:
    """Another network's weights in the place of a network's own, as a moving average puts them there."""

    def __init__(self, network: WanTransformer, average: WanTransformer) -> None:
        self._network, self._average = network, average

    @contextmanager
    def applied(self) -> Iterator[None]:
        own = {name: weight.clone() for name, weight in self._network.state_dict().items()}
        self._network.load_state_dict(self._average.state_dict())
        try:
            yield
        finally:
            self._network.load_state_dict(own)


STUDENT, TEACHER, AVERAGE = 1, 2, 3
"""Seeds of the networks."""


def make_objective(
    name: str, trajectories: OdeTrajectories, *, network: WanTransformer | None = None, **settings: object
):
    network = network or small_network(STUDENT)
    common = {"rollout": ROLLOUT, "seed": SEED, "batch": BATCH}
    arguments = (causal_pass(), trajectories, WordTexts())
    if name == "flow":
        return FlowObjective(network, *arguments, settings=FlowConfig(**settings), **common)
    if name == "ode":
        return OdeObjective(network, *arguments, settings=OdeConfig(**settings), **common)
    average = Average(network, small_network(AVERAGE))
    consistency = ConsistencyConfig(**{"steps": 4, **settings})
    teacher = small_network(TEACHER).requires_grad_(False)
    return ConsistencyObjective(network, teacher, *arguments, averaged=average.applied, settings=consistency, **common)


OBJECTIVES = [
    ("flow", {}),
    ("flow", {"own_past": 1.0}),
    ("ode", {}),
    ("ode", {"context": "clean"}),
    ("consistency", {}),
]


def spread(per_chunk: Tensor) -> Tensor:
    """[B, chunks] over B C T H W, float64."""
    return per_chunk.double().repeat_interleave(ROLLOUT.chunk, dim=1)[:, None, :, None, None]


def flow_through_the_cache(
    network: WanTransformer, past: Tensor, x: Tensor, sigma: Tensor, text: Tensor, *, past_sigma: Tensor | None = None
) -> Tensor:
    """The same flow chunk by chunk against the rolling cache, in float64; sigmas: [B, chunks], of a clean past none."""
    past_sigma = torch.zeros_like(sigma) if past_sigma is None else past_sigma
    network = small_copy(network).double()
    cache = RollingKVCache(
        SMALL, ROLLOUT, batch=len(x), tokens_per_frame=HEIGHT * WIDTH // 4, device="cpu", dtype=torch.float64
    )
    flows = []
    with torch.no_grad():
        for chunk in range(x.shape[2] // ROLLOUT.chunk):
            frames = slice(chunk * ROLLOUT.chunk, (chunk + 1) * ROLLOUT.chunk)
            timestep, past_timestep = (
                (1000 * each[:, chunk : chunk + 1]).double().expand(-1, ROLLOUT.chunk) for each in (sigma, past_sigma)
            )
            flows.append(network(x[:, :, frames].double(), timestep, text.double(), cache=cache))
            network(past[:, :, frames].double(), past_timestep, text.double(), cache=cache)
            cache.commit(ROLLOUT.chunk)
    return torch.cat(flows, dim=2)


def small_copy(network: WanTransformer) -> WanTransformer:
    copy = WanTransformer(SMALL)
    copy.load_state_dict(network.state_dict())
    return copy


def test_flow_is_the_mean_squared_error_of_what_a_rollout_would_predict(trajectories: OdeTrajectories) -> None:
    objective = make_objective("flow", trajectories, student_timesteps=1.0, own_past=0.0)
    batch = objective.batch(7)
    x0, noise = batch.clips.double(), normal(batch.clips.shape[1:], SEED, "noise", 7, samples=range(BATCH)).double()
    steps = draw_steps(ROLLOUT, 3, SEED, 7, samples=range(BATCH))
    rest, first = (
        torch.tensor(each, dtype=torch.float64) / 1000 for each in (ROLLOUT.timesteps, ROLLOUT.first_chunk_timesteps)
    )
    sigma = torch.cat([first[steps[:, :1]], rest[steps[:, 1:]]], dim=1)
    x = (1 - spread(sigma)) * x0 + spread(sigma) * noise
    flow = flow_through_the_cache(small_network(STUDENT), x0, x, sigma, batch.text)
    loss = objective.loss(batch, 7)
    assert loss.total.item() == pytest.approx((flow - (noise - x0)).square().mean().item(), rel=1e-4)
    assert set(loss.parts) == {"true_past"}


def test_own_past_is_the_students_estimate_and_has_no_gradient(trajectories: OdeTrajectories) -> None:
    """Ours from the definition: x0 at the last timestep, given the true past; then the loss given that."""
    objective = make_objective("flow", trajectories, student_timesteps=1.0, own_past=1.0)
    batch = objective.batch(3)
    x0, network = batch.clips.double(), small_network(STUDENT)
    noise = normal(batch.clips.shape[1:], SEED, "past noise", 3, samples=range(BATCH)).double()
    last = torch.full((BATCH, 3), ROLLOUT.timesteps[-1] / 1000, dtype=torch.float64)
    x = (1 - spread(last)) * x0 + spread(last) * noise
    estimate = x - spread(last) * flow_through_the_cache(network, x0, x, last, batch.text)
    given = make_objective("flow", trajectories, student_timesteps=1.0, own_past=0.0, network=network)
    past = objective._own_estimate(batch, 3)
    assert not past.requires_grad
    torch.testing.assert_close(past.double(), estimate, atol=1e-4, rtol=1e-4)
    assert set(objective.loss(batch, 3).parts) == {"own_past"}
    assert objective.loss(batch, 3).total.item() != pytest.approx(given.loss(batch, 3).total.item(), rel=3e-5)


def test_a_step_with_its_own_past_trains_every_layer_under_autocast(trajectories: OdeTrajectories) -> None:
    """As it does when autocast keeps no casts of weights. Before PyTorch 2.11 it kept those that were made without
    gradients too; from then on this holds in any case.
    """
    gradients = []
    for keeps_casts in (True, False):
        network = small_network(STUDENT)
        objective = make_objective("flow", trajectories, network=network, own_past=1.0)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=keeps_casts):
            loss = objective.loss(objective.batch(3), 3).total
        loss.backward()
        gradients.append({name: weight.grad for name, weight in network.named_parameters()})
    for name, gradient in gradients[1].items():
        assert gradient is not None and gradient.any(), name
        assert gradients[0][name] is not None and torch.equal(gradients[0][name], gradient), name


def test_an_ode_batch_is_each_chunk_where_its_step_finds_it(trajectories: OdeTrajectories) -> None:
    batch = make_objective("ode", trajectories).batch(2)
    seen = set()
    for sample in range(BATCH):
        states = next(
            trajectories.states(index)
            for index in range(3)
            if torch.equal(trajectories.clip(index), batch.ends[sample])
        )
        for chunk in range(3):
            frames = slice(2 * chunk, 2 * chunk + 2)
            sigma = batch.sigma[sample, 2 * chunk].item()
            assert batch.sigma[sample, 2 * chunk + 1].item() == sigma > 0
            number = min(range(4), key=lambda each: abs(trajectories.sigmas[each] - sigma))
            assert torch.equal(batch.x[sample, :, frames], states[number][:, frames])
            own = ROLLOUT.timesteps if chunk else ROLLOUT.first_chunk_timesteps
            assert 1000 * sigma == pytest.approx(own[0], rel=1e-6) or any(
                1000 * sigma == pytest.approx(each, rel=1e-6) for each in own
            )
            seen.add((chunk > 0, number))
    assert len(seen) > 2, "steps are drawn, not fixed"


def test_ode_with_clean_context_is_the_error_of_a_rollouts_x0(trajectories: OdeTrajectories) -> None:
    objective = make_objective("ode", trajectories, context="clean")
    batch = objective.batch(1)
    sigma = batch.sigma[:, :: ROLLOUT.chunk].double()
    flow = flow_through_the_cache(small_network(STUDENT), batch.ends, batch.x, sigma, batch.text)
    error = batch.x.double() - spread(sigma) * flow - batch.ends.double()
    assert objective.loss(batch, 1).total.item() == pytest.approx(error.square().mean().item(), rel=1e-4)


def test_ode_with_noisy_context_is_the_error_of_the_x0_of_a_cache_of_the_noisy_chunks(
    trajectories: OdeTrajectories,
) -> None:
    objective = make_objective("ode", trajectories)
    batch = objective.batch(1)
    sigma = batch.sigma[:, :: ROLLOUT.chunk].double()
    assert (sigma[:, 1:] != sigma[:, :-1]).any(), "chunks are told levels of their own"
    flow = flow_through_the_cache(small_network(STUDENT), batch.x, batch.x, sigma, batch.text, past_sigma=sigma)
    error = batch.x.double() - spread(sigma) * flow - batch.ends.double()
    assert objective.loss(batch, 1).total.item() == pytest.approx(error.square().mean().item(), rel=1e-5)


def test_noisy_context_is_earlier_chunks_within_the_window_only(trajectories: OdeTrajectories) -> None:
    batch = make_objective("ode", trajectories).batch(1)
    network = small_network(STUDENT)

    def flow(x: Tensor) -> Tensor:
        with torch.no_grad():
            return causal_pass().after_noisy(network, x, batch.sigma, batch.text)

    def changed(chunk: int) -> list[bool]:
        x = batch.x.clone()
        x[:, :, 2 * chunk : 2 * chunk + 2] += 1
        difference = (flow(x) - flow(batch.x)).abs().amax(dim=(0, 1, 3, 4)) > 0
        return [bool(difference[2 * other : 2 * other + 2].any()) for other in range(3)]

    assert changed(2) == [False, False, True]
    assert changed(1) == [False, True, True]
    # The window holds a chunk and its predecessor; through two layers a chunk hears of the one before that.
    assert changed(0) == [True, True, True]


def consistency_loss_by_hand(objective: ConsistencyObjective, batch, step: int, guidance: float) -> float:
    """Algorithm 2 of arXiv 2303.01469 in float64, through the rolling cache."""
    x0 = batch.clips.double()
    noise = normal(batch.clips.shape[1:], SEED, "noise", step, samples=range(BATCH)).double()
    numbers = objective._numbers(batch, step)
    grid = torch.tensor(student_grid(ROLLOUT, 4), dtype=torch.float64)
    sigma, following = grid[numbers], grid[numbers + 1]
    student, teacher, average = (small_network(seed) for seed in (STUDENT, TEACHER, AVERAGE))
    x = (1 - spread(sigma)) * x0 + spread(sigma) * noise
    conditional = flow_through_the_cache(teacher, x0, x, sigma, batch.text)
    base = flow_through_the_cache(teacher, x0, x, sigma, WordTexts().negative(BATCH))
    next_x = x + spread(following - sigma) * (base + guidance * (conditional - base))
    target = next_x - spread(following) * flow_through_the_cache(average, x0, next_x, following, batch.text)
    estimate = x - spread(sigma) * flow_through_the_cache(student, x0, x, sigma, batch.text)
    return (estimate - target).square().mean().item()


def test_consistency_is_the_published_algorithm(trajectories: OdeTrajectories) -> None:
    objective = make_objective("consistency", trajectories, usual_guidance=2.5)
    batch = objective.batch(4)
    assert 3 in objective._numbers(batch, 4), "the last step ends at the data, which nothing is asked about"
    expected = consistency_loss_by_hand(objective, batch, 4, 2.5)
    assert objective.loss(batch, 4).total.item() == pytest.approx(expected, rel=1e-4)


def test_the_target_is_the_averages_under_autocast_too_and_the_student_keeps_its_own(
    trajectories: OdeTrajectories,
) -> None:
    network = small_network(STUDENT)
    objective = make_objective("consistency", trajectories, network=network, usual_guidance=2.5)
    batch = objective.batch(4)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            network(batch.clips, torch.zeros(BATCH, FRAMES), batch.text)
        loss = objective.loss(batch, 4).total
    assert loss.item() == pytest.approx(consistency_loss_by_hand(objective, batch, 4, 2.5), rel=0.05)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
    for mine, fresh in zip(network.parameters(), small_network(STUDENT).parameters(), strict=True):
        assert torch.equal(mine, fresh)


@pytest.mark.parametrize(("name", "settings"), OBJECTIVES)
def test_the_gradient_is_that_of_finite_differences(
    name: str, settings: dict[str, object], trajectories: OdeTrajectories
) -> None:
    network = small_network(STUDENT)
    objective = make_objective(name, trajectories, network=network, **settings)
    batch = objective.batch(0)
    if settings.get("own_past"):
        # The estimate of the past moves with the weights but has no gradient; hold it still.
        past = objective._own_estimate(batch, 0)
        objective._own_estimate = lambda *_: past
    if name == "consistency":
        target = None
        make_target = objective._target

        def hold(*arguments: object) -> Tensor:
            nonlocal target
            target = make_target(*arguments) if target is None else target
            return target

        objective._target = hold
    objective.loss(batch, 0).total.backward()
    weight = network.blocks[1].self_attn.v.weight
    size = weight.grad.norm().item()
    values = []
    with torch.no_grad():
        for shift in (0.02, -0.04):
            weight.add_(shift / size * weight.grad)
            values.append(objective.loss(batch, 0).total.item())
    assert size == pytest.approx((values[0] - values[1]) / 0.04, rel=0.01)


@pytest.mark.parametrize(("name", "settings"), OBJECTIVES)
def test_ranks_and_parts_of_a_batch_together_are_the_batch(
    name: str, settings: dict[str, object], trajectories: OdeTrajectories, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses(objective: Objective, parts: int) -> list[Tensor]:
        return [objective.loss(part, 6).total for part in micro_batches(objective.batch(6), parts)]

    (whole,) = losses(make_objective(name, trajectories, **settings), 1)
    in_parts = losses(make_objective(name, trajectories, **settings), 2)
    of_ranks = []
    for rank in range(2):
        monkeypatch.setattr(DistContext, "current", classmethod(lambda cls, rank=rank: cls(rank=rank, size=2)))
        of_ranks += losses(make_objective(name, trajectories, **settings), 1)
    for pieces in (in_parts, of_ranks):
        assert len(pieces) == 2 and not torch.equal(*pieces)
        torch.testing.assert_close(torch.stack(pieces).mean(), whole, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("context", ["noisy", "clean"])
def test_blocks_that_are_computed_again_give_the_same_gradient(context: str, trajectories: OdeTrajectories) -> None:
    found = []
    for again in (False, True):
        network = small_network(STUDENT)
        if again:
            recompute_blocks(network)
        objective = make_objective("ode", trajectories, network=network, context=context)
        objective.loss(objective.batch(0), 0).total.backward()
        found.append([weight.grad for weight in network.parameters()])
    assert all(torch.equal(*gradients) and gradients[0].any() for gradients in zip(*found, strict=True))


def test_levels_between_the_steps_cover_all_of_them_evenly() -> None:
    sigma = spread_evenly(5.0, 3, SEED, 0, batch=8, samples=range(8)).flatten()
    even = sigma / (5 - 4 * sigma)
    assert torch.equal((even.sort().values * 24).long(), torch.arange(24))
    part = spread_evenly(5.0, 3, SEED, 0, batch=8, samples=range(4, 8)).flatten()
    assert torch.equal(part, sigma[12:])


# The stage itself, on the shipped teacher at 32x32.

SHORT = ["optimizer.warmup=1", "optimizer.decay=1", "run.workers=0", "run.watch_every=2", "run.log_every=1", "steps=2"]
SHORT += FULL_PRECISION
TEACHER_FILES = [f"teacher={weights_path('teacher')}", f"vae={weights_path('vae')}", "batch=2", "frames=6"]


@pytest.fixture(autouse=True)
def short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal_init, "WATCHED_FRAMES", 6)


def folder_of_trajectories(folder: Path, steps: str = "[1000, 750, 500, 250]") -> list[str]:
    """Make some; the words that causal_init needs to take them."""
    (folder / "prompts.txt").write_text("A red ball bounces slowly up and down in the desert.\nSnow.")
    words = [
        f"conditioning.prompts={folder / 'prompts.txt'}",
        f"conditioning.text_encoder={weights_path('text_encoder')}",
    ]
    sizes = ["height=32", "width=32", "frames=6", "steps=4", "shard=2", "batch=2", "trajectories=2"]
    config = str(CONFIGS / "tiny" / "ode_pairs.yaml")
    made = folder / "ode_pairs"
    where = [f"run.out={made}", f"teacher={weights_path('teacher')}", f"student.steps={steps}"]
    assert main(["ode_pairs", "--config", config, *where, *sizes, *words]) == 0
    return [f"trajectories={made}", *words]


def train(folder: Path, config: str, *words: str) -> dict[str, Tensor]:
    """Weights of the student that the stage leaves."""
    path = str(CONFIGS / "tiny" / f"{config}.yaml")
    assert main(["causal_init", "--config", path, f"run.out={folder}", *SHORT, *TEACHER_FILES, *words]) == 0
    return (
        load_student(folder / "student.safetensors")[0].state_dict()
        if (folder / "student.safetensors").exists()
        else {}
    )


def test_ode_regression_from_pairs_to_a_student_in_pieces_or_at_once(tmp_path: Path) -> None:
    words = folder_of_trajectories(tmp_path)
    whole = train(tmp_path / "whole", "causal_init_ode", *words)
    assert train(tmp_path / "pieces", "causal_init_ode", *words, "run.max_minutes=1e-9") == {}
    pieces = train(tmp_path / "pieces", "causal_init_ode", *words)
    assert all(torch.equal(pieces[name], weight) for name, weight in whole.items())
    assert (tmp_path / "whole" / "board" / "rollouts_000002.mp4").stat().st_size > 0


def test_consistency_on_clips_in_pieces_or_at_once(tmp_path: Path) -> None:
    clips = torch.randn(4, 16, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    clip_shards(tmp_path).write(
        0, clip_shard(clips, [["A red ball."], ["Snow.", "White."], ["Fog."], ["Rain."]]), total=1
    )
    data = f"data=[{{folder: {tmp_path}, clips: 4}}]"
    words = [data, f"text_encoder={weights_path('text_encoder')}"]
    whole = train(tmp_path / "whole", "causal_init_consistency", *words)
    assert train(tmp_path / "pieces", "causal_init_consistency", *words, "run.max_minutes=1e-9") == {}
    pieces = train(tmp_path / "pieces", "causal_init_consistency", *words)
    assert all(torch.equal(pieces[name], weight) for name, weight in whole.items())


def test_the_teacher_of_consistency_is_kept_in_what_the_network_computes_in_and_the_student_in_float32(
    tmp_path: Path,
) -> None:
    clips = torch.randn(4, 16, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    clip_shards(tmp_path).write(0, clip_shard(clips, [["Snow."]] * 4), total=1)
    words = [f"run.out={tmp_path / 'run'}", f"data=[{{folder: {tmp_path}, clips: 4}}]", *TEACHER_FILES]
    words += [f"text_encoder={weights_path('text_encoder')}", "optimizer.muon_precision=float32"]
    path = CONFIGS / "tiny" / "causal_init_consistency.yaml"
    for precision in (torch.float32, torch.bfloat16):
        name = str(precision).removeprefix("torch.")
        config = load_config(
            causal_init.CausalInitStageConfig, path, [*words, f"precision={name}", "run.compile=false"]
        )
        task = causal_init.CausalInitTask(config)
        supervised = Supervised(task, config)
        task.follow(supervised.networks["model"])
        teacher = task._objective._teacher
        assert {weight.dtype for weight in teacher.parameters()} == {precision}
        assert not any(weight.requires_grad for weight in teacher.parameters())
        assert {weight.dtype for weight in task.model.parameters()} == {torch.float32}
        assert 0 < supervised.train_step(task.batch(0), 0)["loss"] < 10


def test_trajectories_of_another_student_or_of_other_prompts_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = folder_of_trajectories(tmp_path, steps="[1000, 500]")
    path = str(CONFIGS / "tiny" / "causal_init_ode.yaml")
    common = ["causal_init", "--config", path, f"run.out={tmp_path / 'run'}", *SHORT, *TEACHER_FILES]
    assert main([*common, *words]) == 2
    assert "make the trajectories again with this student's steps and shift" in caplog.text
    assert main([*common, *words, "frames=9"]) == 2
    assert "holds trajectories of 6 latent frames, but frames is 9" in caplog.text
    (tmp_path / "prompts.txt").write_text("Fog.")
    assert main([*common, *words]) == 2
    assert "conditioning has no prompt 'A red ball bounces" in caplog.text


@pytest.mark.parametrize(
    ("config", "words", "sentence"),
    [
        ("causal_init", ["objective=dmd"], "objective is 'dmd'; it must be one of flow, ode, consistency"),
        ("causal_init", ["objective=ode"], "trajectories is missing"),
        ("causal_init", ["data=[]"], "data is empty"),
        ("causal_init", ["text_encoder=null"], "text_encoder is missing"),
        ("causal_init", ["trajectories=a"], "give either data or trajectories"),
        ("causal_init", ["conditioning.prompts=a"], "conditioning is for trajectories"),
        ("causal_init", ["flow.own_past=2"], r"flow.own_past is 2.0; it must lie in \[0, 1\]"),
        ("causal_init_ode", ["conditioning=null"], "conditioning is missing"),
        ("causal_init_ode", ["text_encoder=a"], "text_encoder is for data"),
        ("causal_init_ode", ["ode.context=blurred"], "ode.context is 'blurred'; it must be one of noisy, clean"),
        ("causal_init_consistency", ["consistency.steps=1"], "consistency.steps is 1; it must be at least 2"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(config: str, words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(causal_init.CausalInitStageConfig, CONFIGS / "tiny" / f"{config}.yaml", words)


def test_the_shipped_configurations_load_and_the_first_still_means_flow() -> None:
    for path in ("tiny/causal_init_ode", "tiny/causal_init_consistency", "wan/causal_init"):
        load_config(causal_init.CausalInitStageConfig, CONFIGS / f"{path}.yaml")
    shipped = load_config(causal_init.CausalInitStageConfig, CONFIGS / "tiny" / "causal_init.yaml")
    assert (shipped.objective, shipped.flow.student_timesteps, shipped.flow.own_past) == ("flow", 0.75, 0.5)
