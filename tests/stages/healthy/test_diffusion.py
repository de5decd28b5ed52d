"""The diffusion route on random-weight models of the true classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cgddi.core.archive import Archive
from cgddi.core.errors import UserError
from cgddi.core.images import decode_png
from cgddi.job.runtime import torch_dtype
from cgddi.job.store import MadeStore
from cgddi.stages.healthy.diffusion import DiffusionInpainter, finished, whole_cells
from cgddi.stages.healthy.region import painted_region
from cgddi.stages.healthy.settings import HealthySettings
from cgddi.stages.healthy.stage import inpaint_batch
from diffusers import AutoPipelineForInpainting
from PIL import Image

from tests.diffusion.tiny import make_model
from tests.stages.healthy import tiny
from tests.stages.lesion_mapped.world import photo, run, spec_of, write_samples

QUICK = HealthySettings(
    steps=2, prior_steps=2, prompt="healthy skin", negative_prompt="lesion", batch_size=4, precision="fp32"
)
CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    decoder, prior, combined = tiny.kandinsky(folder / "kandinsky")
    return {
        "sd-4": (tiny.stable_diffusion(folder / "sd4", 4), QUICK),
        "sd-9": (tiny.stable_diffusion(folder / "sd9", 9), QUICK),
        "kandinsky decoder and prior": (decoder, QUICK.model_copy(update={"prior": str(prior)})),
        "kandinsky combined": (combined, QUICK),
        "sdxl": (make_model(folder / "sdxl", xl=True), QUICK),
    }


def inputs(count: int = 3):
    photos, masks = zip(*(photo(number, 64, lesion=0.03 * (1 + number)) for number in range(count)), strict=True)
    return photos, [painted_region(mask) for mask in masks], list(range(count))


@pytest.mark.parametrize("name", ["sd-4", "sd-9", "kandinsky decoder and prior", "kandinsky combined", "sdxl"])
def test_a_photo_is_painted_alike_in_any_batch(models, name):
    source, settings = models[name]
    inpainter = DiffusionInpainter({"source": str(source)}, settings, CPU)
    together = inpainter.inpaint(*inputs())
    alone = [inpainter.inpaint(*([each] for each in one))[0] for one in zip(*inputs(), strict=True)]
    for one, two, before in zip(together, alone, inputs()[0], strict=True):
        assert one.shape == before.shape and one.dtype == np.uint8
        assert np.abs(one.astype(int) - two).max() <= 1  # rounding of batched matrix products
        assert np.abs(one.astype(int) - before).mean() > 1
    assert np.abs(together[0].astype(int) - together[1]).mean() > 1


@pytest.mark.parametrize(("name", "precision"), [("sd-9", "bf16"), ("kandinsky combined", "fp16"), ("sdxl", "fp16")])
def test_half_precision_paints_nearly_the_same(models, name, precision):
    """The route a GPU takes by default, run here on the CPU."""
    source, settings = models[name]
    half = DiffusionInpainter({"source": str(source)}, settings.model_copy(update={"precision": precision}), CPU)
    unet = half.decoder.unet
    assert {p.dtype for p in unet.parameters()} == {torch_dtype(precision)}
    whole = DiffusionInpainter({"source": str(source)}, settings, CPU)
    for one, two in zip(half.inpaint(*inputs()), whole.inpaint(*inputs()), strict=True):
        assert one is not None and np.abs(one.astype(int) - two).mean() < 8


@pytest.mark.parametrize("name", ["sd-4", "sd-9", "sdxl"])
def test_a_photo_is_what_the_librarys_pipeline_draws(models, name):
    source, settings = models[name]
    inpainter = DiffusionInpainter({"source": str(source)}, settings, CPU)
    photos, regions, _ = inputs(1)
    ours = inpainter.inpaint(photos, regions, [5])[0]
    cells = (
        regions[0].reshape(64 // inpainter.cell, inpainter.cell, 64 // inpainter.cell, inpainter.cell).max((1, 3)) > 0
    )
    theirs = AutoPipelineForInpainting.from_pretrained(source, **({} if name == "sdxl" else {"safety_checker": None}))(
        prompt="healthy skin",
        negative_prompt="lesion",
        image=Image.fromarray(photos[0]),
        mask_image=Image.fromarray(cells.astype(np.uint8) * 255).resize((64, 64), Image.Resampling.NEAREST),
        num_inference_steps=2,
        guidance_scale=4.0,
        strength=1.0,
        width=64,
        height=64,
        generator=[torch.Generator().manual_seed(5)],
        output_type="np",
    ).images[0]
    assert np.abs(ours - np.rint(theirs * 255)).max() <= 1


def test_what_is_published_is_the_default():
    settings = HealthySettings()
    assert settings.prompt == "A close-up clinical photograph of healthy, smooth, normal human skin"
    assert (
        settings.negative_prompt == "Bad anatomy, deformed, lesion, ugly, disfigured, illness, hole, transparent, eye"
    )
    assert (settings.dilation, settings.blur_sigma) == (5, 2.0)
    assert settings.method == "both"  # published: diffusion
    assert settings.full_cover and settings.match_border and settings.halo  # published: no
    assert (settings.steps, settings.guidance, settings.prior_steps) == (100, 4.0, 25)  # diffusers' for Kandinsky 2.2


def test_the_batched_kandinsky_loop_equals_the_pipeline_for_one_photo(models):
    source, settings = models["kandinsky combined"]
    inpainter = DiffusionInpainter({"source": str(source)}, settings, CPU)
    photos, regions, _ = inputs(1)
    ours = inpainter.inpaint(photos, regions, [5])[0]
    generator = torch.Generator().manual_seed(5)
    prior = inpainter.pipeline.prior_pipe("healthy skin", "lesion", num_inference_steps=2, generator=[generator] * 2)
    theirs = inpainter.decoder(
        image=Image.fromarray(photos[0]),
        mask_image=Image.fromarray(whole_cells(regions[0] > 0, (64, 64), inpainter.cell)),
        image_embeds=prior.image_embeds,
        negative_image_embeds=prior.negative_image_embeds,
        width=64,
        height=64,
        num_inference_steps=2,
        guidance_scale=4.0,
        generator=[generator],
        output_type="np",
    ).images[0]
    assert (ours == finished(theirs, (64, 64))).all()


def test_the_command_keeps_every_pixel_outside_the_region(models, tmp_path):
    photos = write_samples(tmp_path / "masks.tar", [(f"p{n}", *photo(n, 64, lesion=0.04), {}) for n in range(3)])
    source, settings = models["sd-4"]
    spec = spec_of(
        "healthy",
        settings.model_dump(mode="json"),
        cohort="c",
        batch="b.000",
        images=["p0", "p2"],
        model={"source": str(source), "revision": None, "variant": None},
    )
    outputs = [tmp_path / "one.tar", tmp_path / "two.tar"]
    for output in outputs:
        arguments = (
            "healthy",
            "--photos",
            photos,
            "--output",
            output,
            "--threads",
            "1",
            "--metrics",
            tmp_path / "m.jsonl",
        )
        assert run(*arguments, spec=spec) == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    archive = Archive(outputs[0])
    assert [row["key"] for row in archive.rows] == ["p0", "p2"]
    for row in archive.rows:
        result, before = decode_png(archive.read(row)), decode_png(archive.read(row, "before.png"))
        region = decode_png(archive.read(row, "region.png"))
        assert (result[region == 0] == before[region == 0]).all()
        assert (result[region == 255] != before[region == 255]).any()
        drawn, healed = row["candidates"]["diffusion"], row["candidates"]["heal"]
        assert (
            drawn["member"] == "png" and drawn["triage"]["lesion_contrast"] >= 0 and drawn["prompt"] == settings.prompt
        )
        other = decode_png(archive.read(row, healed["member"]))
        assert (other[region == 0] == before[region == 0]).all() and (
            other[region == 255] != result[region == 255]
        ).any()
        assert healed["pieces"] >= 1 and healed["triage"] != drawn["triage"]


def test_another_running_size(models):
    source, settings = models["sd-9"]
    inpainter = DiffusionInpainter({"source": str(source)}, settings.model_copy(update={"image_size": 32}), CPU)
    assert inpainter.inpaint(*inputs(1))[0].shape == (64, 64, 3)
    with pytest.raises(UserError, match="no multiple of 4"):
        DiffusionInpainter({"source": str(source)}, settings.model_copy(update={"image_size": 34}), CPU).inpaint(
            *inputs(1)
        )


def test_a_missing_model_is_named_with_a_remedy(tmp_path):
    with pytest.raises(UserError, match=r"healthy model .*nowhere.*heal"):
        DiffusionInpainter({"source": str(tmp_path / "nowhere")}, QUICK, CPU)


def test_pickled_weights_are_refused(models, tmp_path):
    import shutil

    source = tmp_path / "pickled"
    shutil.copytree(models["sd-4"][0], source)
    weights = source / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UserError, match="safetensors"):
        DiffusionInpainter({"source": str(source)}, QUICK, CPU)


def test_nan_and_black_pictures_are_no_result():
    picture = np.full((8, 8, 3), 0.5, np.float32)
    assert finished(picture, (8, 8)).max() == 128
    assert finished(np.zeros((8, 8, 3)), (8, 8)) is None
    picture[3, 3] = np.nan
    assert finished(picture, (8, 8)) is None


def test_thin_lines_reach_the_latent_mask():
    region = np.zeros((64, 64), bool)
    region[:, 3] = True  # between the pixels that nearest-neighbour sampling would pick
    assert (whole_cells(region, (64, 64), 8)[:, :8] == 255).all()
    assert not whole_cells(region, (64, 64), 8)[:, 8:].any()
    assert (whole_cells(region, (32, 32), 8)[:, :8] == 255).all()
    region = np.zeros((3, 3), bool)
    region[1, 1] = True  # 2.7 to 5.3 of 8 px: a part of all four cells
    assert (whole_cells(region, (8, 8), 4) == 255).all()


class Killed(BaseException):
    """Stands for kill -9."""


def test_a_killed_batch_goes_on_and_a_corrected_mask_costs_its_own_photo_to_the_same_bytes(models, tmp_path):
    """Five photos in groups of two; the third call dies. Then one mask is larger by a few pixels."""
    source, settings = models["sd-9"]
    settings = settings.model_copy(update={"batch_size": 2, "method": "diffusion"})
    model = {"source": str(source), "revision": None, "variant": None}
    spec = {"cohort": "c", "batch": "b.000", "images": [f"p{n}" for n in range(5)], "seed": 7}
    samples = [(f"p{n}", *photo(n, 64, lesion=0.04), {}) for n in range(5)]
    photos = write_samples(tmp_path / "masks.tar", samples)

    def heal(output, kept=None, photos=photos, die_at=None):
        inpainter, calls = DiffusionInpainter(model, settings, CPU), []
        real = inpainter.inpaint

        def inpaint(*args):
            calls.append(1)
            if len(calls) == die_at:
                raise Killed
            return real(*args)

        inpainter.inpaint = inpaint
        inpaint_batch(spec, settings, photos, tmp_path / output, lambda: inpainter, kept)
        return [(tmp_path / output).with_suffix(end).read_bytes() for end in (".tar", ".jsonl", ".json")]

    def store():
        return MadeStore(tmp_path / "cache", "healthy", [settings.model_dump(mode="json"), model])

    whole = heal("whole.tar")
    with pytest.raises(Killed):
        heal("a.tar", store(), die_at=3)
    kept = store()
    assert heal("a.tar", kept) == whole and (kept.computed, kept.reused) == (1, 4)
    name, picture, mask, row = samples[0]
    mask = mask.copy()
    ys, xs = np.nonzero(mask == 1)
    mask[ys.max() + 1, xs[ys.argmax()]] = 1
    corrected = write_samples(tmp_path / "corrected/masks.tar", [(name, picture, mask, row), *samples[1:]])
    kept = store()
    found, plain = heal("b.tar", kept, corrected), heal("plain.tar", photos=corrected)
    assert found == plain and found != whole and (kept.computed, kept.reused) == (1, 4)
