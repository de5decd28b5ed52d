# FEDD: features of a frozen diffusion model, the segmenter behind automatic masks, and the study: IoU, malignancy, baselines.
#
# In:  photos; the mask files of the labelled cohort
# Out: fedd/features/<cohort>/t<timestep>/<batch>.safetensors: computed once, read by segmenter, probe and masks
#      fedd/segmenter/<variant>/<subset>/<seed>/, fedd/probe/<subset>/t<timestep>/, fedd/baseline/<task>/<network>/<subset>/<seed>/
#      fedd/tables/: tables and pictures, also a section of the report when fedd.study is true

FEDD = f"{R}/fedd"


rule fedd_features:
    input:
        photos=lambda w: [p.file for p in PLAN.fedd.features_photos(w.cohort, w.features_batch)],
    output:
        features=f"{FEDD}/features/{{cohort}}/t{{timestep}}/{{features_batch}}.safetensors",
        record=f"{FEDD}/features/{{cohort}}/t{{timestep}}/{{features_batch}}.json",
    log:
        text=f"{R}/logs/fedd/features/{{cohort}}/t{{timestep}}/{{features_batch}}.log",
        metrics=f"{R}/logs/fedd/features/{{cohort}}/t{{timestep}}/{{features_batch}}.metrics.jsonl",
    benchmark:
        f"{R}/benchmarks/fedd/features/{{cohort}}/t{{timestep}}/{{features_batch}}.tsv"
    priority: 60
    conda:
        "../envs/diffusion.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=gb(16),
        runtime=minutes(60),
    params:
        spec=lambda w: PLAN.fedd.features_spec(w.cohort, int(w.timestep), w.features_batch),
    message:
        "diffusion features of {wildcards.cohort}, batch {wildcards.features_batch}, timestep {wildcards.timestep}"
    shell:
        """
        cgddi --gpus {resources.gpu} fedd features \
            --spec {params.spec:q} \
            --output {output.features:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """


rule fedd_segmenter:
    input:
        features=lambda w: PLAN.fedd.features(PLAN.fedd.timestep),
        photos=lambda w: study_photos(w.subset),
    output:
        multiext(
            f"{FEDD}/segmenter/{{variant}}/{{subset}}/{{run_seed}}/",
            weights="weights.safetensors",
            test="test.csv",
            validation="validation.csv",
            pictures="pictures.safetensors",
            record="record.json",
        ),
    log:
        text=f"{R}/logs/fedd/segmenter/{{variant}}/{{subset}}/{{run_seed}}.log",
        metrics=f"{R}/logs/fedd/segmenter/{{variant}}/{{subset}}/{{run_seed}}.metrics.jsonl",
    benchmark:
        f"{R}/benchmarks/fedd/segmenter/{{variant}}/{{subset}}/{{run_seed}}.tsv"
    priority: 55
    conda:
        "../envs/diffusion.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=gb(16),
        runtime=minutes(120),
    params:
        spec=lambda w: PLAN.fedd.segmenter_spec(chosen_segmenter(w)),
        folder=subpath(output.weights, parent=True),
    message:
        "segmenter {wildcards.variant} on subset {wildcards.subset}, seed {wildcards.run_seed}"
    shell:
        """
        cgddi --gpus {resources.gpu} fedd segmenter \
            --spec {params.spec:q} \
            --features {input.features:q} \
            --output-dir {params.folder:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """


rule fedd_probe:
    input:
        features=lambda w: PLAN.fedd.features(int(w.timestep)),
    output:
        multiext(f"{FEDD}/probe/{{subset}}/t{{timestep}}/", predictions="predictions.csv", record="record.json"),
    log:
        f"{R}/logs/fedd/probe/{{subset}}/t{{timestep}}.log",
    benchmark:
        f"{R}/benchmarks/fedd/probe/{{subset}}/t{{timestep}}.tsv"
    conda:
        "../envs/diffusion.yaml"
    threads: 2
    resources:
        mem_mb=gb(4),
        runtime=minutes(60),
    params:
        spec=lambda w: PLAN.fedd.probe_spec(w.subset, int(w.timestep)),
        folder=subpath(output.predictions, parent=True),
    message:
        "malignancy probes on subset {wildcards.subset}, timestep {wildcards.timestep}"
    shell:
        """
        cgddi fedd probe \
            --spec {params.spec:q} \
            --features {input.features:q} \
            --output-dir {params.folder:q} \
            --threads {threads} 2>{log:q}
        """


rule fedd_baseline:
    input:
        photos=lambda w: study_photos(w.subset, masks=w.task == "segmentation"),
        weights=lambda w: PLAN.fedd.baseline_weights(w.task, w.network),
    output:
        multiext(
            f"{FEDD}/baseline/{{task}}/{{network}}/{{subset}}/{{run_seed}}/",
            weights="weights.safetensors",
            measures="test.csv",
            record="record.json",
        ),
    log:
        text=f"{R}/logs/fedd/baseline/{{task}}/{{network}}/{{subset}}/{{run_seed}}.log",
        metrics=f"{R}/logs/fedd/baseline/{{task}}/{{network}}/{{subset}}/{{run_seed}}.metrics.jsonl",
    benchmark:
        f"{R}/benchmarks/fedd/baseline/{{task}}/{{network}}/{{subset}}/{{run_seed}}.tsv"
    wildcard_constraints:
        task="segmentation",
    conda:
        "../envs/classify.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=gb(16),
        runtime=minutes(60),
    params:
        spec=lambda w: PLAN.fedd.baseline_spec(chosen_baseline(w)),
        folder=subpath(output.weights, parent=True),
    message:
        "{wildcards.task} by {wildcards.network} on subset {wildcards.subset}, seed {wildcards.run_seed}"
    shell:
        """
        cgddi --gpus {resources.gpu} fedd baseline \
            --spec {params.spec:q} \
            --output-dir {params.folder:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """


use rule fedd_baseline as fedd_classifier with:
    output:
        multiext(
            f"{FEDD}/baseline/{{task}}/{{network}}/{{subset}}/{{run_seed}}/",
            weights="weights.safetensors",
            measures="predictions.csv",
            record="record.json",
        ),
    wildcard_constraints:
        task="classification",


rule fedd_tables:
    input:
        features=lambda w: PLAN.fedd.features(PLAN.fedd.timestep),
        runs=lambda w: [f"{folder}/record.json" for folder in PLAN.fedd.runs],
    output:
        summary=f"{FEDD}/tables/summary.json",
    log:
        f"{R}/logs/fedd/tables.log",
    benchmark:
        f"{R}/benchmarks/fedd/tables.tsv"
    conda:
        "../envs/classify.yaml"
    threads: 1
    resources:
        mem_mb=gb(8),
        runtime=minutes(60),
    params:
        spec=lambda w: PLAN.fedd.tables_spec(),
        folder=subpath(output.summary, parent=True),
        runs=lambda w, input: [str(Path(record).parent) for record in input.runs],
    message:
        "tables and pictures of the FEDD study"
    shell:
        """
        cgddi fedd tables \
            --spec {params.spec:q} \
            --features {input.features:q} \
            --runs {params.runs:q} \
            --output-dir {params.folder:q} \
            --threads {threads} 2>{log:q}
        """


localrules:
    fedd,


rule fedd:
    """The FEDD study: segmenters, probes, baselines and their tables."""
    input:
        rules.fedd_tables.output,
