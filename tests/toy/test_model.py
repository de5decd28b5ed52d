"""The shipped base model in plain diffusers pipelines, its recipe, and a shortened rebuild."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from cgddi.core.archive import file_sha256
from cgddi.toy.corpus import HEALTHY_PROMPT, NEGATIVE_PROMPT, ON_SKIN, ON_TONED, WITH_MARKER, WITH_RULER, vocabulary
from cgddi.toy.denoising import learn_merges
from cgddi.toy.measure import held_out, lesion_contrast, lesion_removal, structure_kept, tone_accuracy
from cgddi.toy.pretrain import main
from diffusers import (
    AutoPipelineForInpainting,
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from PIL import Image

MODEL = Path(__file__).parents[2] / "config/toy/model"
RECIPE = json.loads((MODEL / "recipe.json").read_text())


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    loaded = StableDiffusionPipeline.from_pretrained(MODEL)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def photos() -> list:
    return held_out(4, lesions_only=True)


def test_recipe_names_the_weights_as_they_are():
    weights = {str(path.relative_to(MODEL)): file_sha256(path) for path in MODEL.rglob("*.safetensors")}
    assert RECIPE["sha256"] == weights and len(weights) == 3
    assert {"seed", "pretraining", "versions", "figures"} <= set(RECIPE)


def test_the_folder_is_small_and_holds_no_pickle():
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt"}


def test_it_loads_as_float32_with_the_stated_scheduler(pipeline):
    assert {model.dtype for model in (pipeline.vae, pipeline.unet, pipeline.text_encoder)} == {torch.float32}
    config = pipeline.scheduler.config
    assert isinstance(pipeline.scheduler, DDIMScheduler) and config.prediction_type == "v_prediction"
    assert config.rescale_betas_zero_snr and config.timestep_spacing == "trailing"
    assert pipeline.safety_checker is None and pipeline.unet.config.in_channels == 4
    assert float(pipeline.scheduler.alphas_cumprod[-1]) == 0.0


def test_prompt_words_are_single_tokens(pipeline):
    tokenizer = pipeline.tokenizer
    for word in vocabulary():
        assert len(tokenizer.tokenize(word)) == 1, word
    for prompt in (
        HEALTHY_PROMPT,
        NEGATIVE_PROMPT,
        ON_SKIN.format(what="skin", tone="dark") + WITH_RULER + WITH_MARKER,
    ):
        ids = tokenizer(prompt).input_ids
        assert len(ids) <= tokenizer.model_max_length == 48
        assert len(tokenizer.tokenize(prompt)) == len(re.findall(r"\w+|[^\w\s]", prompt))


def test_a_learned_token_can_be_added(pipeline):
    tokenizer = type(pipeline.tokenizer).from_pretrained(MODEL / "tokenizer")
    assert tokenizer.add_tokens(["<inkblot-naevoma>"]) == 1
    assert tokenizer.tokenize(ON_TONED.format(what="<inkblot-naevoma>", tone="dark")).count("<inkblot-naevoma>") == 1


def test_merges_make_one_symbol_of_each_word():
    merges = learn_merges(["skin", "skinned", "a"])
    assert {"skin</w>", "skinned</w>"} <= {"".join(pair) for pair in merges}
    assert merges == learn_merges(["skin", "skinned", "a"])


def test_text_to_image_obeys_the_tone(pipeline):
    shares = tone_accuracy(pipeline, per_cell=1)
    assert np.mean(list(shares.values())) >= 0.9, shares


def test_inpainting_with_the_healthy_prompt_removes_lesions():
    inpainting = AutoPipelineForInpainting.from_pretrained(MODEL)
    assert isinstance(inpainting, StableDiffusionInpaintPipeline)
    inpainting.set_progress_bar_config(disable=True)
    contrast = lesion_removal(inpainting, 4)
    assert contrast["after"] < 0.5 * contrast["before"], contrast


def test_image_to_image_keeps_structure(pipeline):
    variation = StableDiffusionImg2ImgPipeline.from_pretrained(MODEL)
    variation.set_progress_bar_config(disable=True)
    assert structure_kept(variation, 4) > 0.5


def test_autoencoder_is_faithful_and_deterministic(pipeline, photos):
    images = torch.from_numpy(np.stack([photo.image for photo, _, _ in photos]))
    signal = images.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    with torch.no_grad():
        coded = pipeline.vae.encode(signal).latent_dist
        assert float(coded.std.max()) < 1e-3
        decoded = pipeline.vae.decode(coded.mean).sample.clamp(-1, 1)
    assert -10 * torch.log10(((decoded - signal) ** 2).mean() / 4) > 33.0
    assert coded.mean.shape == (4, 4, 16, 16)


def test_lesion_contrast_needs_a_lesion():
    with pytest.raises(ValueError, match="no lesion"):
        lesion_contrast(np.zeros((64, 64, 3), np.uint8), np.full((64, 64), 4))


def test_shortened_rebuild(tmp_path):
    arguments = [
        "--steps",
        "3",
        "--corpus",
        "24",
        "--autoencoder-steps",
        "2",
        "--batch-size",
        "4",
        "--figures",
        "0",
        "--threads",
        "1",
        "--seed",
        "5",
    ]
    for name in ("one", "two"):
        assert main(["--output", str(tmp_path / name), "--state", str(tmp_path / f"state of {name}"), *arguments]) == 0
    recipes = [json.loads((tmp_path / name / "recipe.json").read_text()) for name in ("one", "two")]
    assert recipes[0]["sha256"] == recipes[1]["sha256"], "the same seed gives the same weights"
    assert set(recipes[0]["sha256"]) == set(RECIPE["sha256"])
    rebuilt = StableDiffusionPipeline.from_pretrained(tmp_path / "one")
    rebuilt.set_progress_bar_config(disable=True)
    image = rebuilt("An image of healthy skin", num_inference_steps=2).images[0]
    assert isinstance(image, Image.Image) and image.size == (64, 64)
    for name in ("tokenizer/vocab.json", "tokenizer/merges.txt"):
        assert (tmp_path / "one" / name).read_bytes() == (MODEL / name).read_bytes()


def test_bad_counts_are_refused(tmp_path):
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path), "--steps", "0"])
