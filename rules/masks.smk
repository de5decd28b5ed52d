# Masks: photos and their five-class masks, brought to working size. One rule per source (config key masks.source, by cohort).
#
# In:  photos of one batch (rows of one cohort and concept), with: the sheet's mask files (human); features and the trained
#      segmenter (fedd); SAM 3 (sam3)
# Out: masks/<cohort>/<batch>.tar: png, mask.png where masked


rule masks:
    input:
        photos=batch_photos,
        masks=batch_masks,
    output:
        multiext(f"{R}/masks/{{cohort}}/{{batch}}", tar=".tar", manifest=".jsonl", record=".json"),
    log:
        f"{R}/logs/masks/{{cohort}}/{{batch}}.log",
    benchmark:
        f"{R}/benchmarks/masks/{{cohort}}/{{batch}}.tsv"
    wildcard_constraints:
        cohort=cohorts_by("human"),
    priority: 50
    conda:
        "../envs/images.yaml"
    threads: 1
    resources:
        mem_mb=gb(2),
        runtime=minutes(20),
    params:
        spec=lambda w: PLAN.masks_spec(w.cohort, w.batch),
    message:
        "masks of {wildcards.cohort}, batch {wildcards.batch}"
    shell:
        """
        cgddi masks \
            --spec {params.spec:q} \
            --output {output.tar:q} \
            --threads {threads} 2>{log:q}
        """


rule fedd_masks:
    input:
        photos=batch_photos,
        masks=batch_masks,
        features=lambda w: PLAN.fedd.mask_features(w.cohort, w.batch),
        segmenter=lambda w: segmenter_files(PLAN.fedd.masks_from),
    output:
        multiext(f"{R}/masks/{{cohort}}/{{batch}}", tar=".tar", manifest=".jsonl", record=".json"),
    log:
        text=f"{R}/logs/masks/{{cohort}}/{{batch}}.log",
        metrics=f"{R}/logs/masks/{{cohort}}/{{batch}}.metrics.jsonl",
    benchmark:
        f"{R}/benchmarks/masks/{{cohort}}/{{batch}}.tsv"
    wildcard_constraints:
        cohort=cohorts_by("fedd"),
    priority: 50
    conda:
        "../envs/diffusion.yaml"
    threads: 4
    resources:
        mem_mb=gb(8),
        runtime=minutes(60),
    params:
        spec=lambda w: PLAN.masks_spec(w.cohort, w.batch),
        segmenter=lambda w, input: Path(input.segmenter[0]).parent,
        features=lambda w, input: options("--features", input.features),
    message:
        "masks of {wildcards.cohort}, batch {wildcards.batch} (FEDD)"
    shell:
        """
        cgddi masks \
            --spec {params.spec:q} \
            {params.features} \
            --segmenter {params.segmenter:q} \
            --output {output.tar:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """


rule sam3_masks:
    input:
        photos=batch_photos,
        masks=batch_masks,
    output:
        multiext(f"{R}/masks/{{cohort}}/{{batch}}", tar=".tar", manifest=".jsonl", record=".json"),
    log:
        text=f"{R}/logs/masks/{{cohort}}/{{batch}}.log",
        metrics=f"{R}/logs/masks/{{cohort}}/{{batch}}.metrics.jsonl",
    benchmark:
        f"{R}/benchmarks/masks/{{cohort}}/{{batch}}.tsv"
    wildcard_constraints:
        cohort=cohorts_by("sam3"),
    priority: 50
    conda:
        "../envs/diffusion.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=gb(24),
        runtime=minutes(60),
    params:
        spec=lambda w: PLAN.masks_spec(w.cohort, w.batch),
    message:
        "masks of {wildcards.cohort}, batch {wildcards.batch} (SAM 3)"
    shell:
        """
        cgddi --gpus {resources.gpu} masks \
            --spec {params.spec:q} \
            --output {output.tar:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """


# Reading published masks takes seconds a batch, less than a cluster job takes to start.
localrules:
    masks,
