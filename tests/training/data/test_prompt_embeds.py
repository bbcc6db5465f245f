"""Prompts, their embeddings, and the networks that training opens."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sfpp_core.tiny.family import load_family_text_encoder, load_teacher, load_vae, weights_path
from sfpp_core.tiny.text import TinyTextEncoder
from training.__main__ import main
from training.config import ConfigError
from training.data.prompt_embeds import Conditioning, ConditioningConfig, read_prompts, text_shards
from training.data.shards import read_header
from training.engine.run_folder import INPUTS_NAME
from training.models.open import fingerprint, open_autoencoder, open_transformer
from training.models.umt5 import LENGTH, Umt5Texts
from training.scaling.counting import LiveBytes
from training.scenes import main as write_prompts

CONFIG = Path(__file__).parents[3] / "training" / "configs" / "tiny" / "embeddings.yaml"
PROMPTS = ["A red ball bounces.", "A blue boat glides to the left.", "Snow."]


def prompts_file(folder: Path, text: str = "\n".join(PROMPTS)) -> str:
    path = folder / "prompts.txt"
    path.write_bytes(text.encode())
    return str(path)


@pytest.fixture(scope="module")
def encoder() -> TinyTextEncoder:
    return load_family_text_encoder()


def test_a_prompts_file_is_lines_that_are_not_empty(tmp_path: Path) -> None:
    assert read_prompts(prompts_file(tmp_path, "\ufeffone\r\n\n  zwei Bälle \n\t\none\n")) == ["one", "zwei Bälle"]


@pytest.mark.parametrize(
    ("content", "sentence"), [(b" \n\n", "holds no prompt"), (b"caf\xe9", "is not UTF-8 .*byte 3")]
)
def test_a_prompts_file_without_prompts_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=sentence):
        read_prompts(str(path))
    with pytest.raises(ConfigError, match="is no file; name a text file of prompts"):
        read_prompts(str(tmp_path / "other.txt"))


def test_training_tells_the_network_what_inference_tells_it(tmp_path: Path, encoder: TinyTextEncoder) -> None:
    conditioning = Conditioning.open(ConditioningConfig(prompts=prompts_file(tmp_path)))
    assert conditioning.prompts == PROMPTS
    with torch.no_grad():
        expected = encoder.encode([PROMPTS[2], PROMPTS[0]])
    torch.testing.assert_close(conditioning.text([2, 0]), expected, atol=1e-5, rtol=0)
    assert torch.equal(conditioning.text_of([PROMPTS[2]]), conditioning.text([2]))
    padding = expected.abs().sum(-1) == 0
    assert padding.any() and torch.equal(conditioning.text([2, 0]).abs().sum(-1) == 0, padding)
    with torch.no_grad():
        torch.testing.assert_close(conditioning.negative(2), encoder.encode(["", ""]), atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="conditioning has no prompt 'Rain.'"):
        conditioning.text_of(["Rain."])


def embed(folder: Path, prompts: str, *words: str) -> str:
    """Run the embeddings stage."""
    config = folder / "embeddings.yaml"
    config.write_text(
        f"conditioning: {{prompts: {prompts}, negative_prompt: fog}}\nshard: 2\nrun: {{out: {folder}/out}}"
    )
    assert main(["embeddings", "--config", str(config), *words]) == 0
    return f"{folder}/out"


def test_embeddings_on_disk_equal_those_in_memory_bit_for_bit(tmp_path: Path) -> None:
    prompts = prompts_file(tmp_path)
    made = Conditioning.open(ConditioningConfig(prompts=prompts, negative_prompt="fog"))
    read = Conditioning.open(ConditioningConfig(embeddings=embed(tmp_path, prompts)))
    assert read.prompts == made.prompts
    assert torch.equal(read.text([1, 2, 0]), made.text([1, 2, 0]))
    assert torch.equal(read.negative(2), made.negative(2))
    assert not torch.equal(read.negative(1), read.text([0]))


def test_the_embeddings_stage_goes_on_at_the_missing_shard_and_refuses_other_prompts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = Path(embed(tmp_path, prompts_file(tmp_path)))
    first, second = out / "texts-00000.safetensors", out / "texts-00001.safetensors"
    kept, content = first.stat().st_mtime_ns, (load_file(second)["embeddings"], read_header(second))
    record = out / INPUTS_NAME
    began_with = record.read_text()
    second.unlink()
    embed(tmp_path, prompts_file(tmp_path))
    assert first.stat().st_mtime_ns == kept and read_header(second) == content[1]
    assert torch.equal(load_file(second)["embeddings"], content[0])
    # The last adds a shard and leaves those that are there as they would be.
    for other in ("Something else.", "\n".join(PROMPTS[:2]), "\n".join([*PROMPTS, "Fog.", "Rain."])):
        prompts_file(tmp_path, other)
        for sentence in ("conditioning.prompts names, is not the file", "was made from other prompts"):
            caplog.clear()
            assert main(["embeddings", "--config", str(tmp_path / "embeddings.yaml")]) == 2
            assert sentence in caplog.text
            record.unlink(missing_ok=True)
        record.write_text(began_with)


def test_half_made_embeddings_are_refused_and_said_how_to_finish(tmp_path: Path) -> None:
    out = embed(tmp_path, prompts_file(tmp_path))
    (tmp_path / "out" / "texts-00001.safetensors").unlink()
    with pytest.raises(ConfigError, match="holds 1 of 2 shards of texts, texts-00001.*missing; finish .*embeddings"):
        Conditioning.open(ConditioningConfig(embeddings=out))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "give either conditioning.prompts"),
        ({"prompts": "a", "embeddings": "b"}, "give either conditioning.prompts"),
        ({"prompts": "a", "encoder": "clip"}, "conditioning.encoder is 'clip'; it must be one of tiny, umt5"),
        ({"prompts": "a", "encoder": "umt5"}, "conditioning.negative_prompt is empty"),
        ({"embeddings": "a", "negative_prompt": "b"}, "bring their encoder and their negative prompt along"),
    ],
)
def test_conditioning_that_cannot_work_is_refused(fields: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ConditioningConfig(**fields)


def test_files_that_hold_no_texts_are_refused(tmp_path: Path) -> None:
    prompts = prompts_file(tmp_path)
    with pytest.raises(ConfigError, match="holds no embeddings; make them with"):
        Conditioning.open(ConditioningConfig(embeddings=str(tmp_path)))
    for path, sentence in ((weights_path("vae"), "a file of kind 'text_encoder' is needed"), ("none.st", "none.st")):
        with pytest.raises(ConfigError, match=sentence):
            Conditioning.open(ConditioningConfig(prompts=prompts, text_encoder=str(path)))


def test_prompts_of_scenes_are_written_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert write_prompts(["--prompts", "4", "--seed", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    write_prompts(["--prompts", "4", "--seed", "5", "--held-out"])
    held_out = capsys.readouterr().out.splitlines()
    assert len(lines) == len(held_out) == 4 and lines != held_out
    with pytest.raises(SystemExit):
        write_prompts(["--prompts", "0"])


def test_networks_are_opened_whole_and_owned() -> None:
    teacher = open_transformer(str(weights_path("teacher")))
    for name, weight in load_teacher().state_dict().items():
        assert torch.equal(teacher.state_dict()[name], weight) and weight.dtype == torch.float32
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in teacher.parameters())
    autoencoder = open_autoencoder(str(weights_path("vae")))
    assert all(torch.equal(autoencoder.state_dict()[name], weight) for name, weight in load_vae().state_dict().items())
    assert autoencoder.decoder.conv1.weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_a_network_that_is_asked_in_half_precision_is_never_held_in_full() -> None:
    weights, peaks = {}, {}
    for dtype in (torch.float32, torch.bfloat16):
        with LiveBytes() as live:
            weights[dtype] = open_transformer(str(weights_path("teacher")), dtype=dtype).state_dict()
        peaks[dtype] = live.peak
    for name, weight in weights[torch.float32].items():
        assert torch.equal(weights[torch.bfloat16][name], weight.bfloat16()), name
    half = sum(weight.nbytes for weight in weights[torch.bfloat16].values())
    assert peaks[torch.float32] - peaks[torch.bfloat16] == half


def test_a_fingerprint_is_of_every_weight() -> None:
    first, second = (open_transformer(str(weights_path("student"))) for _ in range(2))
    assert fingerprint(first) == fingerprint(second) != fingerprint(load_teacher())
    with torch.no_grad():
        second.blocks[1].ffn[0].weight[3, 5] *= 1.0001
    assert fingerprint(first) != fingerprint(second)


def test_the_wrong_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        open_transformer(str(tmp_path / "teacher.safetensors"))
    with pytest.raises(ConfigError, match="vae.safetensors: found .*expected a Wan 2.1 text-to-video transformer"):
        open_transformer(str(weights_path("vae")))
    with pytest.raises(ConfigError, match="this is not a Wan 2.1 VAE"):
        open_autoencoder(str(weights_path("teacher")))
    with pytest.raises(ConfigError, match="no such file; a Wan 2.1 VAE is needed"):
        open_autoencoder(str(tmp_path / "vae.safetensors"))


# UMT5 at a size that takes no time: random weights in the layouts that publishers have, against transformers itself.


@pytest.fixture(scope="module")
def spiece() -> bytes:
    """A SentencePiece model trained on a few sentences, with UMT5's special tokens."""
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PROMPTS * 20),
        model_writer=model,
        vocab_size=40,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def umt5():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4}
    network = transformers.UMT5EncoderModel(transformers.UMT5Config(**sizes)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    return network


WAN_NAMES = [
    ("encoder.final_layer_norm.", "norm."),
    ("shared.", "token_embedding."),
    ("encoder.block.", "blocks."),
    (".layer.0.SelfAttention.relative_attention_bias.", ".pos_embedding.embedding."),
    (".layer.0.SelfAttention.", ".attn."),
    (".layer.0.layer_norm.", ".norm1."),
    (".layer.1.layer_norm.", ".norm2."),
    (".layer.1.DenseReluDense.wi_0.", ".ffn.gate.0."),
    (".layer.1.DenseReluDense.wi_1.", ".ffn.fc1."),
    (".layer.1.DenseReluDense.wo.", ".ffn.fc2."),
]


def publish(layout: str, network, spiece: bytes, folder: Path) -> Path:
    """The encoder as a publisher has it; what to name in text_encoder."""
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items() if "embed_tokens" not in name}
    if layout == "wan":
        for theirs, wans in WAN_NAMES:
            weights = {name.replace(theirs, wans): tensor for name, tensor in weights.items()}
        torch.save(weights, folder / "models_t5_umt5-xxl-enc-bf16.pth")
        (folder / "google" / "umt5-xxl").mkdir(parents=True)
        (folder / "google" / "umt5-xxl" / "spiece.model").write_bytes(spiece)
        return folder / "models_t5_umt5-xxl-enc-bf16.pth"
    if layout == "comfyui":
        tokenizer = torch.frombuffer(bytearray(spiece), dtype=torch.uint8)
        save_file(weights | {"spiece_model": tokenizer}, folder / "umt5_xxl_fp16.safetensors")
        return folder / "umt5_xxl_fp16.safetensors"
    network.save_pretrained(folder / "text_encoder")
    home = folder / ("tokenizer" if layout == "diffusers" else "text_encoder")
    home.mkdir(exist_ok=True)
    (home / "spiece.model").write_bytes(spiece)
    return folder if layout == "diffusers" else folder / "text_encoder"


@pytest.mark.parametrize("layout", ["wan", "comfyui", "transformers", "diffusers"])
def test_umt5_of_every_publisher_gives_what_transformers_gives_for_padded_text(
    layout: str, umt5, spiece: bytes, tmp_path: Path
) -> None:
    from sentencepiece import SentencePieceProcessor

    path = publish(layout, umt5, spiece, tmp_path)
    texts = Umt5Texts(str(path), None, device=torch.device("cpu"), dtype=torch.float32)
    words = [[*SentencePieceProcessor(model_proto=spiece).encode(prompt), 1] for prompt in PROMPTS]
    tokens = torch.zeros(len(words), LENGTH, dtype=torch.int64)
    for row, numbers in zip(tokens, words, strict=True):
        row[: len(numbers)] = torch.tensor(numbers)
    with torch.no_grad():
        padded = umt5(tokens, attention_mask=(tokens != 0).long()).last_hidden_state
    for embedding, whole, numbers in zip(texts.encode(PROMPTS), padded, words, strict=True):
        assert embedding.shape == (len(numbers), 32)
        torch.testing.assert_close(embedding, whole[: len(numbers)], atol=2e-4, rtol=1e-4)


def test_umt5_pads_and_cuts_to_512(umt5, spiece: bytes, tmp_path: Path) -> None:
    path = publish("comfyui", umt5, spiece, tmp_path)
    prompts = prompts_file(tmp_path, "Snow.\n" + "ball " * 1000)
    config = ConditioningConfig(prompts=prompts, encoder="umt5", text_encoder=str(path), negative_prompt="fog")
    text = Conditioning.open(config).text([0, 1])
    assert text.shape == (2, LENGTH, 32) and text.dtype == torch.float32
    present = text.abs().sum(-1) > 0
    assert present[1].all() and not present[0, 20:].any() and present[0, 0]


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_the_embeddings_stage_has_umt5_compute_in_its_precision(
    precision: str, umt5, spiece: bytes, tmp_path: Path
) -> None:
    path = publish("comfyui", umt5, spiece, tmp_path)
    words = ["encoder=umt5", f"text_encoder={path}", "negative_prompt=fog", f"prompts={prompts_file(tmp_path)}"]
    command = ["embeddings", "--config", str(CONFIG), f"run.out={tmp_path / 'out'}", "shard=9"]
    assert main([*command, f"precision={precision}", *(f"conditioning.{word}" for word in words)]) == 0
    (made,) = text_shards(tmp_path / "out").present().values()
    dtype = getattr(torch, precision)
    assert {tensor.dtype for tensor in load_file(made).values()} == {dtype}
    encoder = Umt5Texts(str(path), None, device=torch.device("cpu"), dtype=dtype)
    assert torch.equal(load_file(made)["embeddings"], torch.cat(encoder.encode(PROMPTS)))


def test_what_is_no_umt5_is_refused(umt5, spiece: bytes, tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    path, spiece_file = publish("comfyui", umt5, spiece, tmp_path), tmp_path / "any.model"
    spiece_file.write_bytes(spiece)
    for encoder, tokenizer, sentence in (
        (None, None, "text_encoder is not given"),
        ("missing", None, "missing is not there"),
        (str(path), str(path), "UMT5's tokenizer is no SentencePiece model"),
        (str(weights_path("teacher")), str(spiece_file), "holds no UMT5 encoder"),
        (str(weights_path("teacher")), None, "there is no spiece.model in"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            Umt5Texts(encoder, tokenizer, device=cpu)
