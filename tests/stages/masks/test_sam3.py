"""SAM 3's masks: prompts combined into classes, one encoding per photo and prompt, and mistakes with their remedy."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from cgddi.core.archive import Archive, ArchiveWriter
from cgddi.core.errors import UserError
from cgddi.core.images import BACKGROUND, LESION, MARKER, RULER, SKIN, cropped, decode_png, encode_png
from cgddi.stages.masks.sam3 import Evidence, Sam3Predictor, combined, evidence, load_sam3
from cgddi.stages.masks.settings import MasksSettings, Sam3Settings
from cgddi.stages.masks.stage import PredictedMask
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Sam3ImageProcessor
from transformers.models.sam3.modeling_sam3 import Sam3ImageSegmentationOutput

from tests.stages.lesion_mapped.world import photo, row_of, run, spec_of, write_photos
from tests.stages.masks.sam3 import write_sam3

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sam3(tmp_path_factory.mktemp("sam3"))


def loaded(folder, **options):
    settings = MasksSettings(source="sam3", size=48, crop=options.pop("crop", "resize"), sam3=options)
    return Sam3Predictor(settings, *load_sam3({"source": str(folder)}, torch.float32, CPU))


def wide(number):
    return Image.fromarray(np.concatenate([photo(number, 64)[0], photo(number + 5, 64)[0]], 1))


@pytest.mark.parametrize("crop", ["resize", "square"])
def test_masks_are_those_of_the_plain_call_for_every_photo_and_prompt(folder, crop):
    predictor = loaded(folder, crop=crop, ruler=["ruler"], confidence=0.46, batch_size=2)
    photos = [(str(number), wide(number)) for number in range(3)]
    found = predictor.predict(photos)
    model, processor = predictor.model, predictor.processor
    seen = Counter()
    for (_, picture), result in zip(photos, found, strict=True):
        expected = np.full((48, 48), BACKGROUND)
        prompts = {"skin": ["skin"], "lesion": ["skin lesion", "rash"], "ruler": ["ruler"]}  # last wins
        for name, class_id in (("skin", SKIN), ("lesion", LESION), ("ruler", RULER)):
            for prompt in prompts[name]:
                batch = processor(images=cropped(picture, crop), text=prompt, return_tensors="pt")
                with torch.no_grad():
                    out = model(**{k: batch[k] for k in ("pixel_values", "input_ids", "attention_mask")})
                done = processor.post_process_instance_segmentation(out, 0.46, 0.5, [(48, 48)])[0]
                for instance in done["masks"]:
                    expected[instance.bool().numpy()] = class_id
        assert (result.mask == expected).mean() > 0.999  # a pixel on the threshold may fall either way in a batch
        assert result.uncertainty.shape == (48, 48) and result.uncertainty.max() > result.uncertainty.min()
        seen.update(np.unique(result.mask).tolist())
    assert len(seen) > 1


def test_each_photo_and_each_prompt_is_encoded_once(folder, monkeypatch):
    predictor = loaded(folder, batch_size=2)
    calls = Counter()
    for part in ("vision_encoder", "text_encoder"):
        module = getattr(predictor.model, part)
        module.register_forward_hook(lambda *_, part=part: calls.update([part]))
    predictor.predict([(str(number), wide(number)) for number in range(4)])
    assert calls == {"vision_encoder": 2}  # two batches; the prompts were encoded when the job began


def outputs(scores, boxes, side=32):
    """A model's output with rectangles for instances: (score, (top, left, bottom, right) shares of the side)."""
    masks = torch.full((len(boxes), side, side), -9.0)
    for mask, (top, left, bottom, right) in zip(masks, boxes, strict=True):
        mask[int(top * side) : int(bottom * side), int(left * side) : int(right * side)] = 9.0
    return torch.logit(torch.tensor(scores)), torch.tensor([30.0]), masks


def seen(scores, boxes, size=32, confidence=0.35):
    return evidence(*outputs(scores, boxes), size, confidence)


def test_what_lies_on_top_hides_what_is_below():
    found = {
        "skin": seen([0.9], [(0, 0, 1, 0.75)]),
        "lesion": seen([0.6, 0.5], [(0.25, 0.25, 0.5, 0.5), (0.5, 0.25, 0.75, 0.5)]),
        "ruler": seen([0.8], [(0, 0, 1, 0.3125)]),
    }
    mask, uncertainty = combined(found)
    assert (mask[:, :10] == RULER).all()
    assert (mask[8:24, 10:16] == LESION).all() and (mask == LESION).sum() == 16 * 6
    assert (mask[:8, 10:24] == SKIN).all() and (mask[:, 24:] == BACKGROUND).all()
    marked, _ = combined({**found, "marker": seen([0.9], [(0.25, 0, 0.5, 0.75)])})  # over the lesion, under the ruler
    assert (
        (marked[8:16, :10] == RULER).all()
        and (marked[8:16, 10:24] == MARKER).all()
        and (marked[16:24, 10:16] == LESION).all()
    )
    assert np.allclose(uncertainty[:, :10], 0.2, atol=0.01) and np.allclose(uncertainty[8:16, 10:16], 0.4, atol=0.01)
    assert np.allclose(uncertainty[16:24, 10:16], 0.5, atol=0.01) and np.allclose(uncertainty[:, 26:], 0, atol=0.01)


def test_an_instance_below_the_cut_is_left_out_but_makes_its_place_uncertain():
    found = {"lesion": seen([0.34], [(0, 0, 0.5, 0.5)]), "skin": seen([0.34], [(0.5, 0.5, 1, 1)])}
    mask, uncertainty = combined(found)
    assert (mask == BACKGROUND).all()
    assert np.allclose(uncertainty[:15, :15], 0.34, atol=0.01) and np.allclose(uncertainty[:14, 20:], 0, atol=0.01)
    assert seen([0.36], [(0, 0, 0.5, 0.5)]).inside.sum() == 16 * 16


def test_the_prompts_presence_scales_every_score():
    logits, _, masks = outputs([0.9], [(0, 0, 1, 1)])
    assert not evidence(logits, torch.tensor([-1.0]), masks, 16, 0.35).inside.any()  # 0.9 * 0.27
    assert evidence(logits, torch.tensor([1.0]), masks, 16, 0.35).inside.all()


@pytest.mark.parametrize("seed", range(5))
def test_instances_are_the_librarys_own(seed):
    generator = torch.Generator().manual_seed(seed)
    logits, masks = torch.randn(6, generator=generator), torch.randn(6, 9, 9, generator=generator) * 3
    presence = torch.randn(1, generator=generator) + 2
    whole = Sam3ImageSegmentationOutput(
        pred_logits=logits[None], pred_masks=masks[None], presence_logits=presence[None], pred_boxes=torch.rand(1, 6, 4)
    )
    done = Sam3ImageProcessor().post_process_instance_segmentation(whole, 0.35, 0.5, [(40, 40)])[0]["masks"]
    ours = evidence(logits, presence, masks, 40, 0.35)
    assert (ours.inside == done.bool().any(0).numpy()).all()
    both = ours | Evidence(np.zeros((40, 40), bool), np.ones((40, 40), np.float32))
    assert (both.inside == ours.inside).all() and (both.belief == 1).all()


def test_what_is_published_is_the_default():
    settings = Sam3Settings()
    assert settings.confidence == 0.35 and "rash" in settings.lesion and settings.skin == ("skin",)
    assert not settings.ruler and not settings.marker


def test_a_batch_through_the_command(folder, tmp_path):
    rows = write_photos(tmp_path / "in", 3, 64)
    settings = {"source": "sam3", "size": 48, "sam3": {"confidence": 0.46, "precision": "fp32"}}
    for name in ("a", "b"):
        spec = spec_of("masks", settings, rows=rows, cohort="c", batch="b.000", model={"source": str(folder)})
        words = ("masks", "--output", tmp_path / f"{name}.tar", "--metrics", tmp_path / "m.jsonl", "--threads", "1")
        assert run(*words, spec=spec) == 0
    archive = Archive(tmp_path / "a.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert [row["mask_source"] for row in archive.rows] == ["sam3"] * 3 and archive.record["segmenter_images"] == []
    for row in archive.rows:
        uncertainty = decode_png(archive.read(row, "uncertainty.png"))
        assert uncertainty.shape == (48, 48) and row["uncertainty"] == round(uncertainty.mean() / 255, 4)
    assert json.loads((tmp_path / "m.jsonl").read_text().splitlines()[0])["images"] == 3


def test_numbers_that_are_none_stop_no_other_photo(folder):
    predictor = loaded(folder, batch_size=2)
    vision = predictor.model.get_vision_features

    def broken(pixels):
        result = vision(pixels)
        for part in result.fpn_hidden_states:
            part[0] = torch.nan
        return result

    predictor.model.get_vision_features = broken
    first, second = predictor.predict([("a", wide(1)), ("b", wide(2))])
    assert "not finite. Set masks.sam3.precision" in first and second.mask.shape == (48, 48)


def test_a_model_that_will_not_do_is_named_with_its_remedy(folder, tmp_path, monkeypatch, capsys):
    def refused(source):
        with pytest.raises(UserError) as error:
            load_sam3({"source": str(source)}, torch.float32, CPU)
        return str(error.value)

    assert "hf download facebook/sam3 --local-dir" in refused("./gone")
    assert "config.json: cannot be read" in refused(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "clip"}')
    assert "is a clip model, not SAM 3" in refused(other)
    (other / "config.json").write_text((folder / "config.json").read_text())
    (other / "pytorch_model.bin").write_bytes(b"pickle")
    assert "no .safetensors file" in refused(other)

    for part in folder.iterdir():
        (other / part.name).write_bytes(part.read_bytes())
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "presence" not in k}, other / "model.safetensors", {"format": "pt"})
    assert "of SAM 3's weights (first: detr_decoder.presence" in refused(other)
    (other / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    assert "Fetch the folder again" in refused(other)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "Without internet, download it elsewhere" in refused("facebook/sam3")
    spec = spec_of("masks", {"source": "sam3"}, rows=[], cohort="c", batch="b")
    assert run("masks", "--output", tmp_path / "m.tar", spec=spec) == 2
    assert "models.sam3" in capsys.readouterr().err


def test_the_published_folder_with_the_video_tracker_gives_the_same_detector(folder, tmp_path):
    published = tmp_path / "published"
    published.mkdir()
    for part in folder.iterdir():
        (published / part.name).write_bytes(part.read_bytes())
    video = {"model_type": "sam3_video", "detector_config": json.loads((folder / "config.json").read_text())}
    (published / "config.json").write_text(json.dumps(video))
    weights = {f"detector_model.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    weights |= {"tracker_model.x": torch.zeros(2), "tracker_neck.y": torch.zeros(2)}
    save_file(weights, published / "model.safetensors", {"format": "pt"})
    ours, theirs = (load_sam3({"source": str(place)}, torch.float32, CPU)[0] for place in (folder, published))
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in (ours, theirs)), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same_masks(folder, dtype):
    settings = MasksSettings(source="sam3", size=48, sam3={"confidence": 0.46})
    photos = [(str(number), wide(number)) for number in range(2)]
    single, half = (
        Sam3Predictor(settings, *load_sam3({"source": str(folder)}, kind, CPU)).predict(photos)
        for kind in (torch.float32, dtype)
    )
    for one, other in zip(single, half, strict=True):
        assert (one.mask == other.mask).mean() > 0.97
        assert np.abs(one.uncertainty.astype(int) - other.uncertainty).mean() < 3


def test_a_gated_model_says_how_to_get_access(monkeypatch):
    def gated(*_, **__):
        raise OSError("You are trying to access a gated repo. Make sure to have access to it.")

    monkeypatch.setattr("cgddi.stages.masks.sam3.Sam3Model.from_pretrained", gated)
    with pytest.raises(UserError, match="Accept its licence .*hf auth login"):
        load_sam3({"source": "facebook/sam3"}, torch.float32, CPU)


def test_prompts_are_checked(folder):
    for wrong in ({"lesion": []}, {"skin": [" "]}):
        with pytest.raises(ValueError):
            Sam3Settings(**wrong)
    with pytest.raises(UserError, match="Shorten it"):
        loaded(folder, lesion=["a very " * 30 + "long prompt"])


def test_a_photo_that_needs_no_mask_loads_no_model(tmp_path):
    rows = write_photos(tmp_path / "in", 2, 48)
    settings = {"source": "sam3", "size": 32, "prefer_human": True}
    spec = spec_of("masks", settings, rows=rows, cohort="c", batch="b.000", model={"source": "./gone"})
    assert run("masks", "--output", tmp_path / "m.tar", spec=spec) == 0
    assert Archive(tmp_path / "m.tar").record["sources"] == {"human": 2}
    spec["rows"].append(row_of("new", tmp_path / "in" / "000000.png", None))
    assert run("masks", "--output", tmp_path / "n.tar", spec=spec) == 2
    assert not (tmp_path / "n.tar").exists()


def test_skin_is_looked_for_on_the_healthy_images(folder, tmp_path, monkeypatch):
    """A mask of each kept healthy image from the prompts for skin alone; one without skin is skipped with the reason."""
    pictures = {name: np.full((32, 32, 3), grey, np.uint8) for name, grey in (("a", 200), ("b", 60))}
    with ArchiveWriter(tmp_path / "pool.tar", {"stage": "canvases"}) as archive:
        for name, pixels in pictures.items():
            facts = {"id": f"healthy/x/{name}", "kind": "healthy", "cohort": "x", "tone": "dark"}
            archive.add(
                name, {"png": encode_png(pixels), "mask.png": encode_png(np.full((32, 32), LESION, np.uint8))}, facts
            )
    asked = []

    def skin(self, photos):
        asked.append([name for name, *_ in self._prompts])
        left = [np.asarray(photo).mean() < 100 for photo in photos]
        masks = [np.zeros((32, 32), np.uint8) for _ in photos]
        for mask, dark in zip(masks, left, strict=True):
            mask[:, :16] = 0 if dark else SKIN
        return [PredictedMask(mask) for mask in masks]

    monkeypatch.setattr(Sam3Predictor, "_batch", skin)
    settings = {"source": "sam3", "on_healthy": True, "size": 32, "sam3": {"precision": "fp32"}}
    spec = spec_of("masks", settings, cohort="x", model={"source": str(folder)})
    words = ("masks", "--canvases", tmp_path / "pool.jsonl", "--output", tmp_path / "skin.tar", "--threads", "1")
    assert run(*words, spec=spec) == 0
    made = Archive(tmp_path / "skin.tar")
    assert asked == [["skin"]] and [row["key"] for row in made.rows] == ["a"]
    assert (decode_png(made.read(made.rows[0], "mask.png"))[:, :16] == SKIN).all()
    assert made.record["skipped"] == [{"id": "b", "reason": "no skin was found on the healthy image"}]
    with pytest.raises(ValueError, match="on_healthy is for source sam3"):
        MasksSettings(on_healthy=True)
