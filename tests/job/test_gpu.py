"""What a job is told when its GPU is not what it was promised."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from cgddi.core.errors import UserError
from cgddi.job import gpu, lease, runtime


@pytest.mark.parametrize(
    ("card", "built", "runs"),
    [
        ((9, 0), ["sm_80", "sm_90"], True),
        ((8, 9), ["sm_80", "sm_90"], True),  # Ada runs Ampere's kernels
        ((7, 5), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_90", "compute_90"], True),  # compiled by the driver
        ((7, 0), ["sm_75", "compute_75"], False),
        ((9, 0), ["sm_90a"], True),
        ((10, 3), ["sm_100", "sm_120"], True),
    ],
)
def test_which_cards_a_build_has_kernels_for(card, built, runs):
    assert gpu.runs_on(card, built) is runs


def fake_torch(available=False, card=(9, 0), built=("sm_90",), cuda="13.0"):
    about = {
        "is_available": lambda: available,
        "get_device_capability": lambda: card,
        "get_arch_list": lambda: list(built),
    }
    return SimpleNamespace(
        cuda=SimpleNamespace(**about, get_device_name=lambda: "Tesla T4"),
        version=SimpleNamespace(cuda=cuda),
        __version__="2.15.0+cu130",
    )


@pytest.fixture
def given(monkeypatch):
    monkeypatch.setenv(lease.ASKED, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-11111111")


def test_a_job_that_was_given_a_gpu_and_sees_none_stops(given):
    with pytest.raises(UserError, match="given GPU GPU-11111111, but torch sees none.*CUDA 13.0.*Update the driver"):
        gpu.check(fake_torch())
    with pytest.raises(UserError, match="a build without CUDA"):
        gpu.check(fake_torch(cuda=None))


def test_the_start_of_every_job_looks(given):
    with pytest.raises(UserError, match="but torch sees none"):
        runtime.start(1)


@pytest.mark.parametrize(("asked", "visible"), [("0", "GPU-11111111"), ("1", ""), ("1", "-1")])
def test_a_job_without_a_gpu_computes_on_the_cpu(monkeypatch, asked, visible):
    monkeypatch.setenv(lease.ASKED, asked)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpu.check(fake_torch())


def test_a_card_without_kernels_or_with_imitated_bf16_is_refused():
    with pytest.raises(UserError, match="capability 7.5.*sm_90"):
        gpu.check(fake_torch(True, (7, 5)))
    with pytest.raises(UserError, match="only imitated by Tesla T4.*fp16"):
        gpu.check_precision("bf16", fake_torch(True, (7, 5)))
    for precision, card in (("bf16", (8, 0)), ("fp16", (7, 5)), ("fp32", (7, 5))):
        gpu.check_precision(precision, fake_torch(True, card))


def test_accelerates_names_of_what_a_card_computes_in():
    assert [gpu.mixed_precision(name, fake_torch(True), False) for name in ("fp32", "bf16", "fp16")] == [
        "no",
        "bf16",
        "fp16",
    ]
    with pytest.raises(UserError, match="only imitated"):
        gpu.mixed_precision("bf16", fake_torch(True, (7, 5)), False)
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        gpu.mixed_precision("fp16", fake_torch(), True)


@pytest.fixture
def card(monkeypatch):
    """A card before Ampere, that torch is told of; its float32 products as before, afterwards."""
    before = torch.get_float32_matmul_precision()
    for name, value in vars(fake_torch(True, (7, 5), ("sm_75",)).cuda).items():
        monkeypatch.setattr(torch.cuda, name, value)
    yield
    torch.set_float32_matmul_precision(before)


def test_a_job_on_a_card_rounds_its_float32_products_unless_they_must_be_exact(card):
    assert runtime.start(1).type == "cuda" and torch.get_float32_matmul_precision() == "high"
    assert runtime.start(1, tf32=False).type == "cuda" and torch.get_float32_matmul_precision() == "highest"


def test_no_stage_computes_in_what_its_card_imitates(card):
    with pytest.raises(UserError, match="only imitated by Tesla T4"):
        runtime.torch_dtype("bf16")
    assert runtime.torch_dtype("fp16") == torch.float16


def test_full_memory_names_what_was_asked_and_the_key(tmp_path):
    text = (
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 15.77 GiB of which 1.20 GiB is free. "
        "Process 71 has 14.50 GiB memory in use. Of the allocated memory 13.00 GiB is allocated by PyTorch, and 0.90 GiB is "
        "reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF"
    )
    with pytest.raises(UserError) as told, runtime.usage_log(tmp_path / "m.jsonl", stage="lora"):
        raise torch.OutOfMemoryError(text)
    message = str(told.value)
    assert (
        "Tried to allocate 2.50 GiB" in message and "1.20 GiB is free" in message and "`lora.accumulation`" in message
    )
    assert '"failed": "OutOfMemoryError"' in (tmp_path / "m.jsonl").read_text()


def test_every_key_that_is_named_is_one():
    from cgddi.plan.config import Config

    for text in gpu.SMALLER.values():
        for key in (word.strip("`,:;") for word in text.split() if word.startswith("`")):
            model = Config
            for part in key.split("."):
                assert part in model.model_fields, key
                kind = model.model_fields[part].annotation
                model = next((k for k in (kind, *getattr(kind, "__args__", ())) if hasattr(k, "model_fields")), None)
