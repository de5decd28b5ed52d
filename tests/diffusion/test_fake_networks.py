"""As `test_fake_cuda`, of what else runs on a GPU: classifiers, FEDD's features, segmenter and probe, inpainting."""

from __future__ import annotations

import pytest
from cgddi.stages.healthy.settings import HealthySettings

from benchmarks import _fakecuda, _fakenetworks
from tests.diffusion import tiny
from tests.diffusion.test_fake_cuda import TYPES, assert_quiet, watched
from tests.fedd.conftest import adm_folder  # noqa: F401
from tests.stages.healthy import tiny as inpainting

VIT = {"backbone": "vit_tiny_patch16_224", "size": 32, "batch": 4, "texts": 5}
RESNET = {"backbone": "resnet18", "size": 64, "batch": 8}


@pytest.mark.parametrize(
    "method, precision, network",
    [("baseline", "fp16", RESNET), ("fairdisco", "bf16", RESNET), ("patchalign", "bf16", VIT)],
)
def test_a_classifiers_step(method, precision, network):
    with _fakecuda.pretend() as device:
        step = _fakenetworks.classifier(method, precision, **network)
        seen, loss = watched(device, step)
    assert loss.device.type == "cuda"
    assert_quiet(seen, 0)
    # PatchAlign's transport plans are float32 on purpose.
    assert set(seen.types) == {TYPES[precision]} | ({"float32"} if method == "patchalign" else set())


@pytest.mark.parametrize("model, precision", [("adm", "bf16"), ("sd", "fp32")])
def test_features_are_read_back_after_the_pass(model, precision, request, tmp_path):
    folder = request.getfixturevalue("adm_folder") if model == "adm" else tiny.make_model(tmp_path / "sd")
    with _fakecuda.pretend() as device:
        work = _fakenetworks.features(folder, 64 if model == "adm" else 32, precision)
        seen, _ = watched(device, work)
    # Of four blocks what is finite, the vectors, and of two the maps.
    assert len(seen.read_back) == 10 and all(place.startswith("features/extract.py") for place in seen.read_back)
    assert len(seen.pinned) == 2 and len(seen.to_device) == 1  # photos and noise; once, the schedule
    assert TYPES[precision] in seen.types


def test_segmenter_steps_and_masks():
    with _fakecuda.pretend() as device:
        steps, mask = _fakenetworks.segmenter(64, 6, (32, 16))
        steps()
        seen, _ = watched(device, steps)
        assert_quiet(seen, 3)  # 20 steps: photos, places; who is at its best
        seen, _ = watched(device, mask)
    assert len(seen.read_back) == 2 and not seen.to_device  # the mask and the members' disagreement, whole


def test_a_probe_reads_its_validation_losses_alone():
    with _fakecuda.pretend() as device:
        counts = [watched(device, _fakenetworks.probe(8, 3, 2, epochs))[0] for epochs in (2, 5)]
    few, more = counts
    assert len(more.read_back) - len(few.read_back) == 3  # one an epoch
    assert len(more.to_device) == len(few.to_device)  # the networks at the start
    assert len(more.pinned) - len(few.pinned) == 9  # an epoch's two layers' dropout and who is at its best
    assert all("probe.py" in place for place in more.read_back)


@pytest.mark.parametrize("kind", ["kandinsky", "sd"])
def test_inpainting_reads_back_what_the_library_reads(kind, tmp_path):
    if kind == "kandinsky":
        *_, folder = inpainting.kandinsky(tmp_path / "model")
    else:
        folder = inpainting.stable_diffusion(tmp_path / "model", 9)
    found = []
    for steps in (2, 4):
        settings = HealthySettings(steps=steps, prior_steps=2, prompt="healthy skin", negative_prompt="", batch_size=4)
        with _fakecuda.pretend() as device:
            work = _fakenetworks.inpainter(folder, settings)
            found.append(watched(device, work)[0])
    few, more = found
    if kind == "kandinsky":  # our loop: no step waits; the prior is the library's
        assert len(more.read_back) == len(few.read_back) and len(more.to_device) == len(few.to_device)
    assert sum("schedulers/" not in place for place in more.read_back) == 1  # the pictures
