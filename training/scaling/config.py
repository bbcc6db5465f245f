"""What is asked for: the model, the video, the training method's numbers, and the assumed speed of machines."""

from __future__ import annotations

from dataclasses import dataclass, field

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.wan.config import WAN21, WAN21_T2V_1_3B, WAN21_T2V_14B, WanConfig, WanVAEConfig

from ..config import require
from ..self_forcing.windows import WindowConfig

MODELS = {
    "1.3B": WAN21_T2V_1_3B,
    "14B": WAN21_T2V_14B,
    "tiny": WanConfig(dim=256, ffn_dim=1024, num_heads=2, num_layers=4, text_dim=4096),
}
"""The published models and the built-in family, by the names that the tables use."""
UMT5_TOKENS = 512
"""Length that Wan 2.1 pads every prompt to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineConfig:
    """Speeds that bytes and FLOPs are divided by. They are assumptions, and the only ones here."""

    transformer_tflops: float = 300.0
    """TFLOP/s that the transformer reaches in bfloat16 on one GPU."""
    vae_tflops: float = 60.0
    """TFLOP/s that the autoencoder's float32 convolutions reach (TF32)."""
    link_gbs: float = 150.0
    """GB/s that one GPU receives within a machine."""
    network_gbs: float = 40.0
    """GB/s that one GPU receives between machines."""
    gpus_per_machine: int = 8

    def __post_init__(self) -> None:
        for name in ("transformer_tflops", "vae_tflops", "link_gbs", "network_gbs"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; it must be above 0.")
        require(self.gpus_per_machine >= 1, f"gpus_per_machine is {self.gpus_per_machine}; a machine has at least 1.")

    def receive_gbs(self, gpus: int) -> float:
        """GB/s at which one of `gpus` GPUs gets what the others hold."""
        return self.link_gbs if gpus <= self.gpus_per_machine else self.network_gbs


def teachers(*names: str) -> dict[str, WanConfig]:
    """Models of `MODELS` as `ScalingConfig.teachers` wants them."""
    return {f"{name} teacher": MODELS[name] for name in names}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingConfig:
    """One training run at full size; the defaults are the paper's. Lengths are latent frames."""

    student: WanConfig = WAN21_T2V_1_3B
    """Of student and critic."""
    teachers: dict[str, WanConfig] = field(default_factory=lambda: teachers("1.3B", "14B"))
    """Those that are compared, by the name of their column."""
    vae: WanVAEConfig = field(default_factory=WanVAEConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    height: int = 480
    """Pixels."""
    width: int = 832
    """Pixels."""
    window: WindowConfig = field(default_factory=lambda: WindowConfig(rollout_frames=420))
    """K, what teacher and critic judge, and N, of the longest rollout."""
    critic_updates: int = 5
    """A generator update."""
    batch: int = 8
    """Videos an update; every GPU has at least one."""
    text_tokens: int = UMT5_TOKENS
    gpus: tuple[int, ...] = (1, 8, 64)
    machine: MachineConfig = field(default_factory=MachineConfig)

    def __post_init__(self) -> None:
        self.window.check_chunk(self.rollout.chunk)
        for name in ("critic_updates", "batch", "text_tokens"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1.")
        require(bool(self.teachers), "teachers is empty; name at least one.")
        require(bool(self.gpus) and min(self.gpus) >= 1, f"gpus is {self.gpus}; name counts of at least 1, e.g. 1 8.")
        WAN21.latent_size(self.height, self.width)

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width in latent cells."""
        return WAN21.latent_size(self.height, self.width)

    @property
    def tokens_per_frame(self) -> int:
        """Of a latent frame."""
        return WAN21.tokens_per_frame(*self.latent_size)

    @property
    def window_chunks(self) -> int:
        """Chunks of a judged window."""
        return self.window.frames // self.rollout.chunk

    def samples_per_gpu(self, gpus: int) -> int:
        """Videos that each of `gpus` GPUs makes an update, one after the other."""
        return -(-self.batch // gpus)

    def denoising_steps(self, chunk: int) -> int:
        """Calls that denoise chunk number `chunk` of a video."""
        return len(self.rollout.timesteps if chunk else self.rollout.first_chunk_timesteps)

    def past_frames(self, chunk: int) -> int:
        """Latent frames that chunk number `chunk` of a video finds in the cache."""
        return min(chunk * self.rollout.chunk, self.rollout.window - self.rollout.chunk)
