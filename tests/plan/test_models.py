"""Models of the hub: which a config names, their commits in the lock file and in specs, and `cgddi fetch` with a hub of files."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import yaml
from cgddi.cli import main
from cgddi.core.errors import InvalidInput, UserError
from cgddi.plan.config import Config, parse_config
from cgddi.plan.models import LOCK, HubModel, locked, named_models, read_lock, unlocked
from cgddi.plan.sections import BASE_MODEL
from cgddi.watch.fetch import chosen_files

A, B, C = "a" * 40, "b" * 40, "c" * 40
PRIOR, DECODER = "kandinsky-community/kandinsky-2-2-prior", "kandinsky-community/kandinsky-2-2-decoder-inpaint"
SMALL = {
    "models": {"base": {"source": "owner/base"}, "inpainting": {"source": "owner/paint"}},
    "audit": {"features": {"weights": "pixels"}},
    "runs": {"methods": ["patchalign"]},
    "classify": {"label_texts": {"text_encoder": "owner/base"}, "training": {"weights": "random"}},
}
"""A config that names two repositories, one of them for two uses."""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def names(**changes) -> dict[str, str]:
    return {model.key: model.name for model in named_models(parse_config(changes))}


def test_the_default_names_all_it_reads():
    assert names() == {
        "models.base": BASE_MODEL,
        "models.inpainting": DECODER,
        "healthy.prior": PRIOR,
        "classify.label_texts.text_encoder": BASE_MODEL,
        "classify (method baseline)": "timm:resnet18",
        "classify (method fairdisco)": "timm:resnet18",
        "classify (method patchalign)": "timm:vit_base_patch16_224.augreg_in21k",
        "audit.features": "timm:resnet18",
    }


def test_only_what_is_used_is_named():
    found = names(
        models={"base": {"source": "./here"}, "inpainting": {"revision": "v1"}, "fedd": {"source": "x/adm"}},
        cohorts={"new": {"masks": {"source": "sam3"}}},
        runs={"methods": ["baseline"]},
        classify={"training": {"weights": "random"}},
        audit={"features": {"weights": "pixels"}},
    )
    assert found == {"models.inpainting": f"{DECODER}@v1", "models.sam3": "facebook/sam3", "healthy.prior": PRIOR}
    assert "models.inpainting" not in names(healthy={"method": "heal"})
    assert names(fedd={"study": True}, models={"fedd": {"source": "x/adm"}}).keys() >= {
        "models.fedd",
        "fedd.baselines.classification",
        "fedd.baselines.segmentation",
    }
    Path("owner/name").mkdir(parents=True)
    assert "models.base" not in names(models={"base": {"source": "owner/name"}}), "a folder of that name is here"


def test_commits_take_the_place_of_revisions():
    config = parse_config({"models": {"inpainting": {"revision": "v1"}}})
    lock = {BASE_MODEL: A, f"{DECODER}@v1": B, PRIOR: C, "timm:resnet18": A}
    found = locked(config, lock)
    assert (found.models.base.revision, found.models.inpainting.revision) == (A, B)
    assert found.healthy.prior_revision == C
    assert found.classify.label_texts.text_encoder == f"{BASE_MODEL}@{A}"
    assert found.classify.methods["baseline"].weights == found.audit.features.weights == f"hub@{A}"
    assert "patchalign" not in found.classify.methods
    assert locked(config, {}) == config
    text = locked(parse_config({"models": {"base": {"revision": "v2"}}}), {}).classify.label_texts.text_encoder
    assert text == f"{BASE_MODEL}@v2", "the same model at the same revision"


def test_the_lock_file_is_read_and_checked():
    assert read_lock() == {} and unlocked(parse_config(SMALL))[0].startswith(
        "No commit is noted of owner/base, owner/pa"
    )
    LOCK.write_text(f"owner/base: {A}\n")
    assert locked(parse_config(SMALL)).models.base.revision == A
    assert unlocked(parse_config(SMALL))[0].startswith("No commit is noted of owner/paint: run `cgddi fetch`")
    LOCK.write_text(f"owner/base: {A}\nowner/paint: main\n")
    with pytest.raises(InvalidInput, match="models.lock.yaml, line 2, owner/paint: no commit"):
        read_lock()
    pinned = {**SMALL, "models": {name: {"source": "o/x", "revision": A} for name in ("base", "inpainting")}}
    LOCK.unlink()
    assert unlocked(parse_config({**pinned, "runs": {"methods": ["baseline"]}})) == []


FILES = [
    *("model_index.json", "README.md", "v2-1_512-ema-pruned.safetensors", "safety_checker/model.safetensors"),
    *("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin"),
    *("unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors"),
    *("text_encoder/config.json", "text_encoder/model-00001-of-00002.safetensors", "tokenizer/vocab.json"),
    *("text_encoder/model-00002-of-00002.safetensors", "text_encoder/model.safetensors.index.json"),
    *("text_encoder/model.fp16-00001-of-00001.safetensors", "tokenizer/merges.txt", "vae/vae.safetensors"),
]


def test_only_what_jobs_read_is_fetched():
    plain = chosen_files(HubModel("k", "o/n", "pipeline"), FILES)
    assert [n for n in plain if ".safetensors" in n] == [
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model-00002-of-00002.safetensors",
        "text_encoder/model.safetensors.index.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/vae.safetensors",
    ]
    assert {"model_index.json", "tokenizer/vocab.json", "tokenizer/merges.txt"} < set(
        plain
    ) and "README.md" not in plain
    half = chosen_files(HubModel("k", "o/n", "pipeline", "fp16"), FILES)
    assert [n for n in half if n.endswith(".safetensors")] == [
        "text_encoder/model.fp16-00001-of-00001.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/vae.safetensors",
    ]
    text = chosen_files(HubModel("k", "o/n", "text encoder"), FILES)
    assert {n.split("/")[0] for n in text} == {"tokenizer", "text_encoder"}
    assert chosen_files(HubModel("k", "timm:x", "timm"), ["model.safetensors", "pytorch_model.bin", "config.json"]) == [
        "config.json",
        "model.safetensors",
    ]
    with pytest.raises(UserError, match="has no safetensors weights"):
        chosen_files(HubModel("k", "o/n", "pipeline"), ["model_index.json", "unet/model.bin"])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub whose repositories are dictionaries of files, and what was asked of it. `head` is the commit of every branch."""
    hub = SimpleNamespace(head=A, repositories={}, downloads=[], cached=set())

    class Api:
        def model_info(self, source, revision=None, files_metadata=False):
            if source not in hub.repositories:
                raise huggingface_hub.errors.OfflineModeIsEnabled("no network\nsecond line")
            files = [SimpleNamespace(rfilename=name, size=size) for name, size in hub.repositories[source].items()]
            return SimpleNamespace(sha=revision if revision and len(revision) == 40 else hub.head, siblings=files)

    def download(source, revision=None, allow_patterns=()):
        hub.downloads.append((source, revision, tuple(allow_patterns)))
        hub.cached |= {(source, name) for name in allow_patterns}

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda s, n, revision: "path" if (s, n) in hub.cached else None
    )
    files = {"model_index.json": 100, "unet/model.safetensors": 4_000_000, "text_encoder/model.safetensors": 1_000}
    hub.repositories = {"owner/base": files, "owner/paint": {"unet/model.safetensors": 3_000_000_000}}
    Path("config.yaml").write_text(yaml.safe_dump(SMALL))
    return hub


def fetch(*more) -> int:
    return main(["fetch", "--configfile", "config.yaml", *more])


def test_fetch_notes_the_commits_and_keeps_them(hub, capsys):
    assert fetch() == 0
    out = capsys.readouterr().out
    assert "owner/base (models.base): 4 MB, 4 MB fetched, commit aaaaaaaaaaaa" in out and "3.0 GB fetched" in out
    assert read_lock() == {"owner/base": A, "owner/paint": A}
    assert ("owner/base", A, ("text_encoder/model.safetensors",)) in hub.downloads, "the label texts' use, same commit"
    hub.head = B
    assert fetch() == 0 and read_lock() == {"owner/base": A, "owner/paint": A}
    assert "0 B fetched" in capsys.readouterr().out and hub.downloads[-1][1] == A
    assert fetch("--update") == 0 and read_lock()["owner/base"] == B


def test_a_dry_run_fetches_and_writes_nothing(hub, capsys):
    assert fetch("-n") == 0 and "3.0 GB to fetch" in capsys.readouterr().out
    assert not hub.downloads and not LOCK.exists()


def test_what_the_hub_does_not_give_is_said_and_the_rest_is_fetched(hub, capsys):
    del hub.repositories["owner/base"]
    assert fetch() == 2
    err = capsys.readouterr().err
    assert "owner/base: the hub did not give it (OfflineModeIsEnabled: no network)" in err and "second" not in err
    assert read_lock() == {"owner/paint": A}


def test_a_disk_that_is_too_small_is_said_before(hub, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000_000))
    assert fetch() == 2
    assert "owner/paint needs 3.0 GB" in (err := capsys.readouterr().err) and "HF_HOME" in err
    assert read_lock() == {"owner/base": A}


def test_a_pinned_backbone_asks_the_hub_for_its_commit(monkeypatch):
    import timm
    from cgddi.core.backbones import create_backbone

    asked = {}
    real = timm.create_model

    def create(name, pretrained, pretrained_cfg_overlay=None, **options):
        asked.update(pretrained=pretrained, overlay=pretrained_cfg_overlay)
        return real(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", create)
    create_backbone("test_resnet", f"hub@{A}", 64)
    assert asked == {"pretrained": True, "overlay": {"hf_hub_id": f"timm/test_resnet.r160_in1k@{A}"}}


def test_the_default_config_is_locked_as_a_whole():
    lock = {model.name: A for model in named_models(Config())}
    assert not [m for m in named_models(locked(Config(), lock)) if m.name in lock]


def test_weights_for_quality_come_from_a_file_or_from_the_hub(tmp_path):
    place = {"inception": "owner/weights/fid.safetensors@v1", "lpips": "owner/weights/lpips.safetensors"}
    config = parse_config(SMALL | {"audit": SMALL["audit"] | place})
    found = {m.key: (m.name, m.files) for m in named_models(config) if m.key.startswith("audit")}
    assert found == {
        "audit.inception": ("owner/weights@v1", ("fid.safetensors",)),
        "audit.lpips": ("owner/weights", ("lpips.safetensors",)),
    }
    audit = locked(config, {"owner/weights@v1": A, "owner/weights": B}).audit
    assert audit.inception == f"owner/weights/fid.safetensors@{A}" and audit.lpips.endswith(f"lpips.safetensors@{B}")
    model = next(m for m in named_models(config) if m.key == "audit.lpips")
    assert chosen_files(model, ["README.md", "lpips.safetensors", "fid.safetensors"]) == ["lpips.safetensors"]
    with pytest.raises(UserError, match=r"audit.lpips: owner/weights has no lpips.safetensors, but README.md"):
        chosen_files(model, ["README.md"])
    local = parse_config({"audit": {"inception": "models/fid.safetensors", "lpips": None}})
    assert not [m for m in named_models(local) if m.key == "audit.inception"], "a file on this disk, or nowhere"
