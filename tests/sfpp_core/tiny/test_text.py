"""The built-in text encoder takes any prompt, ignores padding exactly, and tells words and their order apart."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sfpp_core.tiny.text import (
    PADDING,
    START,
    TinyTextConfig,
    TinyTextEncoder,
    TinyTokenizer,
    load_text_encoder,
    save_text_encoder,
)

SMALL = TinyTextConfig(length=12, width=32, num_heads=2, text_dim=48)
PROMPT = "A red ball moves slowly to the left in the desert."
ODD_PROMPTS = ("", "   ", "?!", "\n", "un ch\u00e2teau", "\u6d77\u4e0a\u306e\u8239", "_x_ 4k (ball:1.2)", "\U0001f600")


@pytest.fixture
def encoder() -> TinyTextEncoder:
    torch.manual_seed(0)
    return TinyTextEncoder(SMALL).eval()


def test_case_and_punctuation_do_not_count() -> None:
    tokenizer = TinyTokenizer()
    assert tokenizer.tokenize("A RED ball; moves,slowly!") == tokenizer.tokenize("a red ball moves slowly")


def test_synonyms_share_a_number_and_different_words_do_not() -> None:
    numbers = {word: TinyTokenizer().tokenize(word)[1] for word in ("quickly", "fast", "slowly", "left", "right")}
    assert numbers["quickly"] == numbers["fast"]
    assert len(set(numbers.values())) == 4


@pytest.mark.parametrize("prompt", ODD_PROMPTS)
def test_any_prompt_is_accepted(prompt: str, encoder: TinyTextEncoder) -> None:
    tokens = encoder.tokenizer.tokenize(prompt)
    assert len(tokens) == SMALL.length and tokens[0] == START
    assert all(0 <= token < encoder.tokenizer.num_tokens for token in tokens)
    assert encoder.encode([prompt]).isfinite().all()


def test_unknown_words_fall_into_the_same_bucket_everywhere() -> None:
    tokenizer = TinyTokenizer()
    assert not tokenizer.knows("zeppelin")
    buckets_start = tokenizer.num_tokens - tokenizer.config.num_buckets
    # A recorded value: shipped weights depend on it, so it may not change between machines or versions.
    assert tokenizer.tokenize("zeppelin")[1] - buckets_start == 57
    words = [tokenizer.tokenize(f"unheard{number}")[1] for number in range(200)]
    assert min(words) >= buckets_start and len(set(words)) > 40


def test_a_long_prompt_is_cut_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tokens = TinyTokenizer(SMALL).tokenize("ball " * 40)
    assert PADDING not in tokens and len(tokens) == SMALL.length
    assert "has 40 words" in caplog.text and "first 11" in caplog.text


def test_output_shape_and_exact_zeros_where_there_is_no_word(encoder: TinyTextEncoder) -> None:
    prompts = ["", "red ball", PROMPT]
    text = encoder.encode(prompts)
    assert text.shape == (3, SMALL.length, SMALL.text_dim)
    present = encoder.tokenizer.batch(prompts) != PADDING
    assert present.sum(dim=1).tolist() == [1, 3, 12]
    assert torch.equal(text.abs().amax(dim=2) > 0, present)


def test_default_output_fits_wan() -> None:
    assert TinyTextEncoder().encode(["", PROMPT]).shape == (2, 32, 4096)
    assert TinyTokenizer().batch([]).shape == (0, 32)


def test_padding_does_not_reach_the_words(encoder: TinyTextEncoder) -> None:
    alone = encoder.encode(["red ball"])
    with torch.no_grad():
        encoder.word_embedding.weight[PADDING] += 100
    assert torch.equal(encoder.encode(["red ball"]), alone)


def test_a_prompt_does_not_depend_on_its_batch(encoder: TinyTextEncoder) -> None:
    batch = encoder.encode([PROMPT, "", "a blue kite"])
    assert torch.allclose(batch[2], encoder.encode(["a blue kite"])[0], atol=1e-6)


@pytest.mark.parametrize("other", ["a red kite", "ball red a", "a blue ball", ""])
def test_words_and_their_order_matter(other: str, encoder: TinyTextEncoder) -> None:
    assert not torch.allclose(encoder.encode(["a red ball"]), encoder.encode([other]), atol=0.01)


def test_unknown_words_say_nothing_of_their_own(encoder: TinyTextEncoder) -> None:
    assert torch.equal(encoder.encode(["zeppelin ball"]), encoder.encode(["quokka ball"]))


def test_output_has_unit_size() -> None:
    torch.manual_seed(0)
    text = TinyTextEncoder().encode([PROMPT])
    assert 0.8 < text[text != 0].std() < 1.25


def test_every_weight_is_trained(encoder: TinyTextEncoder) -> None:
    encoder.encode([PROMPT, "quokka"]).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in encoder.parameters())


def test_saved_weights_come_back_bit_for_bit(encoder: TinyTextEncoder, tmp_path: Path) -> None:
    save_text_encoder(encoder, tmp_path / "text_encoder.safetensors")
    loaded = load_text_encoder(tmp_path / "text_encoder.safetensors")
    assert loaded.config == SMALL and not loaded.training
    assert torch.equal(loaded.encode([PROMPT]), encoder.encode([PROMPT]))


def test_half_precision_files_load_in_float32(encoder: TinyTextEncoder, tmp_path: Path) -> None:
    expected = encoder.encode([PROMPT])
    save_text_encoder(encoder.half(), tmp_path / "half.safetensors")
    loaded = load_text_encoder(tmp_path / "half.safetensors")
    assert loaded.projection.weight.dtype is torch.float32
    assert torch.allclose(loaded.encode([PROMPT]), expected, atol=0.02)


def test_another_file_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors holds 'no sfpp weights'; a file of kind 'text_encoder'"):
        load_text_encoder(tmp_path / "other.safetensors")


def test_wrong_sizes_are_refused(encoder: TinyTextEncoder) -> None:
    with pytest.raises(ValueError, match="width 30 is no multiple of num_heads 4"):
        TinyTextConfig(width=30)
    with pytest.raises(ValueError, match=r"shape \(1, 5\); expected \[B, 12\]"):
        encoder(torch.ones(1, 5, dtype=torch.int64))


def test_weights_of_another_vocabulary_are_refused(encoder: TinyTextEncoder, tmp_path: Path) -> None:
    header = encoder.header() | {"vocabulary": 1}
    save_file(encoder.state_dict(), tmp_path / "old.safetensors", metadata={"sfpp": json.dumps(header)})
    with pytest.raises(ValueError, match="trained with another vocabulary"):
        load_text_encoder(tmp_path / "old.safetensors")
